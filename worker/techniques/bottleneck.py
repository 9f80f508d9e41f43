"""Bottleneck adapters: small trained layers inside the layers of a frozen transformers model.

Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2020 (arXiv:2005.00247). The files have AdapterHub's format. The
library `adapters` loads them, and so does `load_bottleneck` here, into a model that transformers has loaded.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from api.spec.techniques.bottleneck import Bottleneck
from worker.techniques.bottleneck_families import FAMILIES, Family, Rule, find_layers

NAME = "attune"
"""Name of the adapter in the files and in the model. `adapters` can have several adapters in one model."""
FORMAT = "adapters.1.3.0"
"""The version of AdapterHub's format. Without it, `adapters` reads "gelu" as the old name of another function."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter.safetensors"
HEAD_CONFIG, HEAD_WEIGHTS = "head_config.json", "model_head.safetensors"

NON_LINEARITIES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
OTHER_NAMES = {"swish": "silu"}
"""Names that AdapterHub's configs use for functions with another name in NON_LINEARITIES."""

Model = TypeVar("Model", bound=PreTrainedModel)
Parameters = dict[str, nn.Parameter]
Hook: TypeAlias = Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]


class WrongAdapter(ValueError):
    """The folder holds no bottleneck adapter for this model, or one of a kind that is not implemented."""


class Adapter(nn.Module):
    """A(h) = W_up f(W_down h + b_down) + b_up, without the residual connection. [..., hidden] → [..., hidden].

    W_up begins at zero, so that training begins at the base model; W_down is Kaiming-uniform. AdapterHub calls this
    initialization "mam_adapter" (He et al. 2021, arXiv:2110.04366). The computation is in the weights' type, initially
    float32; input and output are in the model's type.
    """

    def __init__(self, hidden: int, bottleneck: int, non_linearity: str, device: torch.device) -> None:
        super().__init__()
        down = nn.Linear(
            hidden, bottleneck, dtype=torch.float32, device=device
        )  # torch initializes it Kaiming-uniform with a = √5
        self.adapter_down = nn.Sequential(down, NON_LINEARITIES[non_linearity]())
        self.adapter_up = nn.Linear(bottleneck, hidden, dtype=torch.float32, device=device)
        for zero in (down.bias, self.adapter_up.weight, self.adapter_up.bias):
            nn.init.zeros_(zero)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.adapter_up(self.adapter_down(h.to(self.adapter_up.weight.dtype)))
        return changed.to(h.dtype)

    def hook(self, rule: Rule) -> Hook:
        """Return the forward hook for the rule. The hook is a bound method, so that a copied model uses its own
        adapter."""
        return {Rule.AFTER: self._after, Rule.AFTER_NORM: self._after_norm}[rule]

    def _after(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self.forward(output)

    def _after_norm(self, norm: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        # norm.forward(…), because norm(…) would call this hook again.
        normalised: torch.Tensor = norm.forward(inputs[0] + self.forward(output))
        return normalised


def add(model: PreTrainedModel, technique: Bottleneck) -> Parameters:
    """Put adapters into a transformers model, in place, and freeze everything but the adapters and a classification
    head.

    model: a causal or masked language model, a sequence classifier, or an encoder without a head. Return the trained
    parameters by their names in `model.named_parameters()`. The adapters' weights are submodules of the layers, drawn
    from torch's global random generator. Raise UnsupportedFamily if the model's family is not in FAMILIES.
    """
    family, layers = find_layers(model)
    model.requires_grad_(False)
    hidden = model.config.hidden_size
    for layer in layers:
        device = next(layer.parameters()).device
        for place in family.places(technique.placement):
            adapter = Adapter(hidden, technique.bottleneck_size(hidden), technique.non_linearity, device)
            adapter.train(model.training)
            _attach(layer, place.home, adapter)
            layer.get_submodule(place.module).register_forward_hook(adapter.hook(place.rule))
    for parameter in _head(model).values():
        parameter.requires_grad_(True)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _attach(layer: nn.Module, home: str, adapter: Adapter) -> None:
    *path, last = home.split(".")
    owner = layer
    for step in path:
        if not hasattr(owner, step):
            owner.add_module(step, nn.Module())
        owner = owner.get_submodule(step)
    if hasattr(owner, last):
        raise ValueError("the model has bottleneck adapters already")
    owner.add_module(last, nn.ModuleDict({NAME: adapter}))


def _head(model: PreTrainedModel) -> Parameters:
    """Return the parameters of a head for labels or rewards. A head for tokens is part of the frozen base model, so a
    language model has none here."""
    if model.base_model is model or model.get_output_embeddings() is not None:
        return {}
    inside = f"{model.base_model_prefix}."
    return {name: parameter for name, parameter in model.named_parameters() if not name.startswith(inside)}


def _adapters(model: PreTrainedModel) -> Parameters:
    """Return the adapters' parameters by their names in files. The names begin below the base model, so that `adapters`
    finds them with and without a head."""
    return {name: parameter for name, parameter in model.base_model.named_parameters() if f".adapters.{NAME}." in name}


def save(model: PreTrainedModel, technique: Bottleneck, folder: Path, base_name: str) -> None:
    """Write the adapter and a classification head in AdapterHub's format: configs and float32 safetensors.

    base_name: the name by which users know the base model. The same weights give the same bytes.
    """
    common = {
        "model_class": type(model).__name__,
        "model_name": base_name,
        "model_type": model.config.model_type,
        "hidden_size": model.config.hidden_size,
        "version": FORMAT,
    }
    family, _ = find_layers(model)
    _write_json(folder / CONFIG, {**common, "name": NAME, "config": _adapterhub_config(technique, family)})
    _write_weights(folder / WEIGHTS, _adapters(model))
    if head := _head(model):
        labels = {"label2id": model.config.label2id, "num_labels": model.config.num_labels}
        _write_json(folder / HEAD_CONFIG, {**common, **labels, "name": None, "config": None})
        _write_weights(folder / HEAD_WEIGHTS, head)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(path: Path, parameters: Parameters) -> None:
    tensors = {name: each.detach().to("cpu", torch.float32).contiguous() for name, each in parameters.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _adapterhub_config(technique: Bottleneck, family: Family) -> dict[str, object]:
    """Return all fields of BnConfig, the configuration of such adapters in the library `adapters`, that affect the
    computation."""
    return {
        "mh_adapter": technique.placement == "houlsby",
        "output_adapter": True,
        "reduction_factor": technique.reduction_factor,
        "non_linearity": technique.non_linearity,
        "original_ln_before": technique.placement == "pfeiffer" and family.pfeiffer_sees_sum,
        "original_ln_after": True,
        "residual_before_ln": True,
        "adapter_residual_before_ln": False,
        "ln_before": False,
        "ln_after": False,
        "init_weights": "mam_adapter",
        "is_parallel": False,
        "scaling": 1.0,
        "use_gating": False,
        "inv_adapter": None,
        "cross_adapter": False,
        "leave_out": [],
        "dropout": 0.0,
        "phm_layer": False,
        "stochastic_depth": 0.0,
    }


def load_bottleneck(model: Model, folder: Path | str) -> Model:
    """Put the adapter of a folder into a model that transformers has loaded, and return the model.

    Only the folder and a base model are needed, such as `AutoModelForCausalLM.from_pretrained(…)` returns. If the model
    has a classification head, the folder's head is loaded, too, with its labels. Afterwards the adapters and the head
    are trainable, and the rest is frozen. The function also reads adapters that the library `adapters` wrote as
    safetensors. Raise UnsupportedFamily if the model's family is not in FAMILIES, and WrongAdapter if the adapter does
    not fit the model or is of a kind that is not implemented.
    """
    folder = Path(folder)
    written = json.loads((folder / CONFIG).read_bytes())
    family, _ = find_layers(model)
    add(model, _technique(written, model.config.hidden_size, family))
    prefix, written_name = f"{model.base_model_prefix}.", f".adapters.{written['name']}."
    tensors = {
        name.removeprefix(prefix).replace(written_name, f".adapters.{NAME}."): tensor
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    _fill(_adapters(model), tensors, WEIGHTS)
    if (head := _head(model)) and (folder / HEAD_WEIGHTS).exists():
        _fill(head, load_file(folder / HEAD_WEIGHTS), HEAD_WEIGHTS)
        label2id = json.loads((folder / HEAD_CONFIG).read_bytes())["label2id"]
        model.config.label2id, model.config.id2label = label2id, {number: label for label, number in label2id.items()}
    return model


def _technique(written: dict[str, Any], hidden: int, family: Family) -> Bottleneck:
    """Return the technique of a file's config. Raise WrongAdapter if it needs a computation that is not implemented."""
    config = written.get("config") or {}
    if written.get("hidden_size") != hidden or "output_adapter" not in config:
        raise WrongAdapter(f"{CONFIG} describes no bottleneck adapter for a model with a hidden size of {hidden}.")
    function = str(config.get("non_linearity"))
    try:
        technique = Bottleneck.model_validate(
            {
                "placement": "houlsby" if config.get("mh_adapter") else "pfeiffer",
                "reduction_factor": config.get("reduction_factor"),
                "non_linearity": OTHER_NAMES.get(function, function),
            }
        )
    except ValidationError as error:
        fields = ", ".join(str(each["loc"][0]) for each in error.errors())
        message = f"{CONFIG}: Attune does not implement this adapter, because of the values of {fields}."
        raise WrongAdapter(message) from None
    decided = {"init_weights", "non_linearity"}  # not compared: initialization is over, and functions have two names
    expected = {key: value for key, value in _adapterhub_config(technique, family).items() if key not in decided}
    if other := sorted(key for key, value in expected.items() if config.get(key, value) != value):
        raise WrongAdapter(
            f"{CONFIG}: Attune does not implement this adapter for this model, because of the values of "
            f"{', '.join(other)}."
        )
    return technique


@torch.no_grad()
def _fill(parameters: Parameters, tensors: dict[str, torch.Tensor], file: str) -> None:
    ours, theirs = ({name: tuple(each.shape) for name, each in side.items()} for side in (parameters, tensors))
    if ours != theirs:
        name = sorted(dict(ours.items() ^ theirs.items()))[0]
        found, wanted = theirs.get(name, "nothing"), ours.get(name, "nothing")
        shapes = f"Shape of {name}: {wanted} in the model, {found} in the file."
        raise WrongAdapter(f"{file} does not fit this model. {shapes}")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


load = load_bottleneck


def loading_code(model_type: str, auto_class: str = "AutoModelForCausalLM", arguments: str = "") -> str:
    """Return the code that loads the adapter, for the model card. The code uses the library `adapters` if that supports
    the family, else `load_bottleneck`. `arguments`: as in `worker.techniques.Implementation`."""
    code = LOAD_WITH_ADAPTERS if FAMILIES[model_type].in_adapterhub else LOAD_WITH_ATTUNE
    return code.format(auto_class=auto_class, arguments=arguments)


LOAD_WITH_ADAPTERS = """import adapters  # version 1.3, or load_bottleneck of Attune, as below
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("path/to/the/base/model"{arguments})
adapters.init(model)
model.load_adapter("path/to/this/folder", set_active=True, use_safetensors=True)
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")

# The same without `adapters`, which is bound to transformers 4:
# from worker.techniques.bottleneck import load_bottleneck
# base = {auto_class}.from_pretrained("path/to/the/base/model"{arguments})
# model = load_bottleneck(base, "path/to/this/folder").eval()"""

LOAD_WITH_ATTUNE = """# AdapterHub's `adapters` 1.3 cannot run this family with adapters. Attune's own loader can.
from transformers import {auto_class}, AutoTokenizer
from worker.techniques.bottleneck import load_bottleneck

base = {auto_class}.from_pretrained("path/to/the/base/model"{arguments})
model = load_bottleneck(base, "path/to/this/folder").eval()
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
