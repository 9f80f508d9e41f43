"""Models and rows as fake tensors on a GPU that is not there: shapes, types and devices without values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cuda.backward import backward, grad
from worker.engine.model.norms import replace_norms
from worker.engine.model.trainable import TrainableModel

CUDA = torch.device("cuda", 0)
HOPPER, TURING = (9, 0), (7, 5)


class Call(NamedTuple):
    operator: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Recorder(TorchDispatchMode):
    """Records every operator that runs, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.pinned: dict[int, torch.Tensor] = {}
        """Tensors in pinned memory, by their id."""
        self.reads = 0
        """Number of tensors whose values the host read, and waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(Call(func._schema.name, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def of(self, part: str) -> list[Call]:
        return [call for call in self.calls if part in call.operator]

    def blocking_copies(self) -> list[Call]:
        """Copies between the host and the GPU, in either direction, for which the host waits."""
        return [call for call in self.calls if self._blocks(*call)]

    def _blocks(self, operator: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        match operator:
            case "aten::_to_copy":
                device = options.get("device")
                crosses = device is not None and (device.type == "cuda") != arguments[0].is_cuda
                return crosses and not (options.get("non_blocking") and id(arguments[0]) in self.pinned)
            case "aten::copy_":
                return arguments[0].is_cuda != arguments[1].is_cuda
            case "aten::index" | "aten::index_put" | "aten::index_put_":  # an index on the host is copied
                return arguments[0].is_cuda and any(each is not None and not each.is_cuda for each in arguments[1])
        return False


class Read:
    """The values of a tensor on the host, as an array of zeros: this is all that the engine asks for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def numpy(self) -> npt.NDArray[np.generic]:
        return np.zeros(self._tensor.shape, str(self._tensor.dtype).removeprefix("torch."))


class Generator:
    """Stands in for torch.Generator on the GPU. Given None, an operator uses the generator of its device."""

    def __init__(self, device: torch.device) -> None:
        assert device == CUDA

    def manual_seed(self, seed: int) -> None:
        """Nothing is drawn."""


@contextmanager
def fake_gpu(patch: pytest.MonkeyPatch, capability: tuple[int, int] = HOPPER) -> Iterator[Recorder]:
    """Within the block tensors are fake. Reading a value of one, for which a host waits on a real GPU, raises.

    Only `Tensor.cpu` returns values, zeros, and is counted in `Recorder.reads`.
    """
    patch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    patch.setattr(torch, "Generator", Generator)
    patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8))
    patch.setattr(torch.Tensor, "backward", backward)
    patch.setattr(torch.autograd, "grad", grad)
    with FakeTensorMode(allow_non_fake_inputs=True), Recorder() as recorder:

        def read(tensor: torch.Tensor) -> Read:
            recorder.reads += tensor.is_cuda
            return Read(tensor)

        def pin(tensor: torch.Tensor) -> torch.Tensor:  # has no fake implementation
            return recorder.pinned.setdefault(id(tensor), tensor)

        patch.setattr(torch.Tensor, "cpu", read)
        patch.setattr(torch.Tensor, "pin_memory", pin)
        yield recorder


def on_gpu(loaded: TrainableModel) -> TrainableModel:
    """The model with fake weights on the GPU in place of its own, and with the layers that it has there."""
    with unset_fake_temporarily():
        replace_norms(loaded.model)
    fakes: dict[int, nn.Parameter] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)

    for module in loaded.model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:  # tied weights stay one
                parameter = fakes.setdefault(id(weight), nn.Parameter(fake(weight), requires_grad=weight.requires_grad))
                module._parameters[name] = parameter
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer)
    return TrainableModel(
        loaded.model, loaded.layout, virtual_tokens=loaded._virtual_tokens, reads_whole=loaded._reads_whole
    )
