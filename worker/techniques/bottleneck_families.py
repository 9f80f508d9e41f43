"""The places of bottleneck adapters in each family of models, the same as in AdapterHub's `adapters` 1.3.0.

Let x be the residual stream before a part of a layer (attention or feed-forward), h the output of the part, LN the
normalization of the part, and A the adapter without its own residual connection. The papers' rules for layers that
normalize after the addition are

    Houlsby et al. 2019   LN(x + h + A(h))             after both parts
    Pfeiffer et al. 2020  LN(x + h + A(LN(x + h)))     after the feed-forward part only

and without the LN where a layer normalizes before its parts. Each rule is a hook on one module whose input and output
are all that the rule needs, so the model's own forward is unchanged.
"""

from dataclasses import dataclass
from enum import Enum

from torch import nn
from transformers import PreTrainedModel

from api.spec.lifecycle import FailureReason
from worker.engine.errors import TrainingError


class Rule(Enum):
    """The change that an adapter A makes to the output of the module at its place. h: the module's output; s: its
    input; LN: a normalization."""

    AFTER = "h → h + A(h)"
    AFTER_NORM = "LN(s) → LN(s + A(LN(s)))"


@dataclass(frozen=True)
class Place:
    module: str
    """Path of the module in a layer; "" is the layer itself."""
    home: str
    """Path in a layer of the dictionary that holds the adapter. It is part of the names of weights in files."""
    rule: Rule = Rule.AFTER


@dataclass(frozen=True)
class Family:
    layers: str
    """Path of the list of layers in the base model."""
    houlsby: tuple[Place, ...]
    pfeiffer: tuple[Place, ...]
    pfeiffer_sees_sum: bool = True
    """AdapterHub's `original_ln_before`: a Pfeiffer adapter reads x + h, not h alone."""
    in_adapterhub: bool = True
    """Whether the library `adapters` supports the family and computes the same outputs."""

    def places(self, placement: str) -> tuple[Place, ...]:
        return {"houlsby": self.houlsby, "pfeiffer": self.pfeiffer}[placement]


class UnsupportedFamily(TrainingError):
    """The places of adapters in this family are not known."""

    def __init__(self, model_type: str) -> None:
        super().__init__(
            FailureReason.INVALID_RECIPE,
            f"technique: bottleneck adapters are not implemented for models of the family {model_type[:64]!r}, only "
            f"for {', '.join(sorted(FAMILIES))}.",
        )


ATTENTION, OUTPUT = "attention_adapters.adapters", "output_adapters.adapters"


def _norm_first(layers: str, attention: str, feed_forward: str, *, in_adapterhub: bool = True) -> Family:
    """Return a family whose layers compute y = x + h. A Pfeiffer adapter, x + h + A(x + h), is then y + A(y)."""
    after = (Place(attention, ATTENTION), Place(feed_forward, OUTPUT))
    return Family(layers, after, (Place("", OUTPUT),), in_adapterhub=in_adapterhub)


def _norm_last(layers: str, attention: str, feed_forward: str, norm: str, homes: tuple[str, str]) -> Family:
    """Return a family whose layers compute LN(x + h)."""
    after = (Place(attention, homes[0]), Place(feed_forward, homes[1]))
    return Family(layers, after, (Place(norm, homes[1], Rule.AFTER_NORM),))


def _feed_forward_only(
    attention: str, feed_forward: str, *, pfeiffer_sees_sum: bool, in_adapterhub: bool = True
) -> Family:
    """Return a family in which a Pfeiffer adapter reads only the output h of the feed-forward part."""
    after = (Place(attention, ATTENTION), Place(feed_forward, OUTPUT))
    return Family("layers", after, after[1:], pfeiffer_sees_sum, in_adapterhub)


LLAMA = _norm_first("layers", "self_attn.o_proj", "mlp.down_proj")
BERT = _norm_last(
    "encoder.layer",
    "attention.output.dropout",
    "output.dropout",
    "output.LayerNorm",
    ("attention.output.adapters", "output.adapters"),
)
# Gemma 2 normalizes before and after the parts of a layer. By default, `adapters` makes the Pfeiffer adapters of all
# layers read the last layer's norm of x + h, which no paper describes. Our files configure them to read h alone, which
# both `adapters` and Attune implement.
GEMMA2 = _feed_forward_only("self_attn.o_proj", "mlp.down_proj", pfeiffer_sees_sum=False)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "phi3": _norm_first("layers", "self_attn.o_proj", "mlp.down_proj", in_adapterhub=False),
    "gpt2": _norm_first("h", "attn.resid_dropout", "mlp.dropout"),
    # Attention and feed-forward part run in parallel, so that there is no sum between them.
    "phi": _feed_forward_only("self_attn.dense", "mlp.fc2", pfeiffer_sees_sum=True),
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "electra": BERT,
    "deberta-v2": BERT,
    "distilbert": _norm_last("transformer.layer", "attention.out_lin", "ffn", "output_layer_norm", (ATTENTION, OUTPUT)),
    # `adapters` has a bug in this family: `adapters.init` adds a random bias to every Wqkv, even without an adapter.
    "modernbert": _feed_forward_only("attn.Wo", "mlp.Wo", pfeiffer_sees_sum=False, in_adapterhub=False),
}
"""Families by `model_type`. Each is tested in tests/worker/engine/test_bottleneck.py."""


def find_layers(model: PreTrainedModel) -> tuple[Family, list[nn.Module]]:
    """Return the family of a transformers model, with or without a head, and its layers from the first to the last.

    Raise UnsupportedFamily if the model's family is not in FAMILIES.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        raise UnsupportedFamily(model.config.model_type)
    layers = model.base_model.get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList), type(layers)
    return family, list(layers)
