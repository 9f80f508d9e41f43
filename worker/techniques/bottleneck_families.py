"""Where bottleneck adapters go in each family of models: exactly where AdapterHub's `adapters` 1.3.0 puts them.

With x the residual stream before a part of a layer, h what the part (attention or feed-forward) computes and A the
adapter without its own residual connection, the papers' rules for layers that normalise after the addition are

    Houlsby et al. 2019   LN(x + h + A(h))             after both parts
    Pfeiffer et al. 2020  LN(x + h + A(LN(x + h)))     after the feed-forward part only

and without the LN where a layer normalises before its parts. Each of them can be had by changing the output of one
module that sees nothing but what the rule needs, so that the model's own forward stays as it is.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import nn

from api.spec.lifecycle import FailureReason
from worker.engine.errors import TrainingError


class Rule(Enum):
    """What becomes of the output of the module at the place."""

    AFTER = "h → h + A(h)"
    AFTER_NORM = "LN(s) → LN(s + A(LN(s)))"


@dataclass(frozen=True)
class Place:
    module: str
    """Path in a layer; "" is the layer itself."""
    home: str
    """Path in a layer of the dictionary that owns the adapter. It is part of the names of weights in files."""
    rule: Rule = Rule.AFTER


@dataclass(frozen=True)
class Family:
    layers: str
    """Path in the base model of the list of layers."""
    houlsby: tuple[Place, ...]
    pfeiffer: tuple[Place, ...]
    pfeiffer_sees_sum: bool = True
    """AdapterHub's `original_ln_before`: a Pfeiffer adapter reads x + h, not h alone."""
    in_adapterhub: bool = True
    """The library `adapters` loads such a model and its adapter, and computes the same."""

    def places(self, placement: str) -> tuple[Place, ...]:
        return {"houlsby": self.houlsby, "pfeiffer": self.pfeiffer}[placement]


class UnsupportedFamily(TrainingError):
    """Nobody has said where adapters belong in such layers."""

    def __init__(self, model_type: str) -> None:
        super().__init__(
            FailureReason.INVALID_RECIPE,
            f"technique: bottleneck adapters have no place in models of the family {model_type[:64]!r}. "
            f"They have one in {', '.join(sorted(FAMILIES))}.",
        )


ATTENTION, OUTPUT = "attention_adapters.adapters", "output_adapters.adapters"


def _norm_first(layers: str, attention: str, feed_forward: str, **more: Any) -> Family:
    """Layers of x + h. A Pfeiffer adapter's x + h + A(x + h) then is y + A(y), y being the layer's output."""
    after = (Place(attention, ATTENTION), Place(feed_forward, OUTPUT))
    return Family(layers, after, (Place("", OUTPUT),), **more)


def _norm_last(layers: str, attention: str, feed_forward: str, norm: str, homes: tuple[str, str]) -> Family:
    """Layers of LN(x + h)."""
    after = (Place(attention, homes[0]), Place(feed_forward, homes[1]))
    return Family(layers, after, (Place(norm, homes[1], Rule.AFTER_NORM),))


def _feed_forward_alone(attention: str, feed_forward: str, *, pfeiffer_sees_sum: bool, **more: Any) -> Family:
    """Families where the feed-forward part's h is all that a Pfeiffer adapter reads."""
    after = (Place(attention, ATTENTION), Place(feed_forward, OUTPUT))
    return Family("layers", after, after[1:], pfeiffer_sees_sum, **more)


LLAMA = _norm_first("layers", "self_attn.o_proj", "mlp.down_proj")
BERT = _norm_last(
    "encoder.layer",
    "attention.output.dropout",
    "output.dropout",
    "output.LayerNorm",
    ("attention.output.adapters", "output.adapters"),
)
# Normalises before and after its parts. `adapters` would have a Pfeiffer adapter there read the last layer's norm of
# x + h in every layer, which is no paper's rule; its files say that it reads h alone, and both sides keep to that.
GEMMA2 = _feed_forward_alone("self_attn.o_proj", "mlp.down_proj", pfeiffer_sees_sum=False)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "phi3": _norm_first("layers", "self_attn.o_proj", "mlp.down_proj", in_adapterhub=False),
    "gpt2": _norm_first("h", "attn.resid_dropout", "mlp.dropout"),
    # Attention and feed-forward part run side by side: there is no sum between them to read.
    "phi": _feed_forward_alone("self_attn.dense", "mlp.fc2", pfeiffer_sees_sum=True),
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "electra": BERT,
    "deberta-v2": BERT,
    "distilbert": _norm_last("transformer.layer", "attention.out_lin", "ffn", "output_layer_norm", (ATTENTION, OUTPUT)),
    # `adapters` knows it but breaks it: without any adapter its `init` gives every Wqkv a bias of random numbers.
    "modernbert": _feed_forward_alone("attn.Wo", "mlp.Wo", pfeiffer_sees_sum=False, in_adapterhub=False),
}
"""By `model_type`. A family is named here only when tests/worker/engine/test_bottleneck.py tries it."""


def find_layers(model: Any) -> tuple[Family, list[nn.Module]]:
    """Of a transformers model, with or without a head: its family, and its layers from the bottom up.

    Raises UnsupportedFamily.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        raise UnsupportedFamily(model.config.model_type)
    layers: nn.ModuleList = model.base_model.get_submodule(family.layers)
    return family, list(layers)
