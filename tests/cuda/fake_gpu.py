"""Models and rows as fake tensors on a GPU that is not there: shapes, types and devices without values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

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
        self.pinned: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(Call(func._schema.name, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def of(self, part: str) -> list[Call]:
        return [call for call in self.calls if part in call.operator]

    def blocking_copies(self) -> list[Call]:
        """Copies between the host and the GPU, in either direction, for which the host waits."""
        copies = [call for call in self.of("_to_copy") if call.options.get("device") is not None]
        return [
            call
            for call in copies
            if (call.options["device"].type == "cuda") != call.arguments[0].is_cuda
            and not call.options.get("non_blocking")
        ]


@contextmanager
def fake_gpu(patch: pytest.MonkeyPatch, capability: tuple[int, int] = HOPPER) -> Iterator[Recorder]:
    """Within the block tensors are fake. Reading a value of one, for which a host waits on a real GPU, raises.

    Without a driver no gradient can be computed, not even a fake one: forward passes only.
    """
    patch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)  # has no fake implementation
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), Recorder() as recorder:
        yield recorder


def on_gpu(loaded: TrainableModel) -> TrainableModel:
    """The model with fake weights on the GPU in place of its own."""
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
