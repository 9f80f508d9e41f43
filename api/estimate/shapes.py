"""How many weights a technique trains, from the shapes of the base model's layers. Exact for bases whose facts hold
shapes; approximate for those converted before there were any."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from api.methods import MethodBase
from api.techniques import Technique, TechniqueBase
from api.techniques.base import ALL_LINEAR
from api.techniques.bottleneck import Bottleneck
from api.techniques.full import Full
from api.techniques.ia3 import Ia3
from api.techniques.lora import Lora
from api.techniques.prefix import Prefix
from api.techniques.prompt import Prompt

BLOCK = 64
"""Weights that share a scale when they are quantised to four bits."""
HEADS = ("score", "classifier")
"""Names of classifiers' heads; adapters are published with them and train them whole."""

Layer = list[Any]
"""[linear | embedding | head, inputs, outputs, how many]. With {} in its name, it stands for those numbered from 0."""


class ClassifierShape(TypedDict):
    """Of the model with a head for labels."""

    parameters: int
    """With two labels."""
    per_label: int
    """More for each further label."""
    head: int
    """Of those, the head's."""
    outside: int
    """Of those, what is not the base model's."""


class Shapes(TypedDict):
    """`shapes` of a base model's facts."""

    layers: dict[str, Layer]
    parameters: int | None
    """Of the causal language model as it is trained; None of an encoder."""
    classifier: ClassifierShape | None
    width: int
    """Of a token's embedding, as learnt prompts have it."""
    key_values: int
    """Of a token's keys (or values) in one layer."""
    ia3: dict[str, list[str]] | None
    """Names of the layers that (IA)³ scales by default: targets, and those of them that are feedforward."""
    bottlenecks: dict[str, int] | None
    """Adapters in a layer for each placement; None where bottleneck adapters have no place in the family."""


@dataclass(frozen=True)
class Matrix:
    name: str
    kind: str
    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        return self.inputs * self.outputs


class NoPlace(ValueError):
    """The technique finds nothing in this base model to work on."""


def shapes_of(facts: Mapping[str, Any]) -> tuple[Shapes, bool]:
    """(shapes, whether they are exact)."""
    if facts.get("shapes"):
        return facts["shapes"], True
    return _guessed(facts), False


def _guessed(facts: Mapping[str, Any]) -> Shapes:
    """A decoder with gated feed-forward parts and untied heads of attention, as wide as the parameters allow."""
    hidden, layers = facts.get("hidden_size", 0), facts.get("layers", 0)
    body = max(0, facts["parameters"] - facts.get("vocab_size", 0) * hidden)
    inner = max(1, (body - 4 * layers * hidden**2) // max(1, 3 * layers * hidden))
    names = {"q": (hidden, hidden), "k": (hidden, hidden), "v": (hidden, hidden), "o": (hidden, hidden)}
    names |= {"gate": (hidden, inner), "up": (hidden, inner), "down": (inner, hidden)}
    found: dict[str, Layer] = {
        f"model.layers.{{}}.{name}_proj": ["linear", *shape, layers] for name, shape in names.items()
    }
    found["model.embed_tokens"] = ["embedding", facts.get("vocab_size", 0), hidden, 1]
    return Shapes(
        layers=found,
        parameters=facts["parameters"],
        classifier=ClassifierShape(
            parameters=facts["parameters"] + 2 * hidden, per_label=hidden, head=2 * hidden, outside=2 * hidden
        ),
        width=hidden,
        key_values=hidden,
        ia3={"targets": ["k_proj", "v_proj", "down_proj"], "feedforward": ["down_proj"]},
        bottlenecks={"houlsby": 2, "pfeiffer": 1},
    )


def matrices(shapes: Shapes) -> Iterator[Matrix]:
    for pattern, (kind, inputs, outputs, count) in shapes["layers"].items():
        for number in range(count):
            yield Matrix(pattern.replace("{}", str(number)), kind, inputs, outputs)


def require_whole_blocks(technique: Technique, facts: Mapping[str, Any]) -> None:
    """On a machine without a GPU, where bitsandbytes returns wrong values if a block of weights goes on in the next
    row. Raises NoPlace. Of bases without exact shapes worker/engine/load.py says it, once it has them."""
    shapes, exact = shapes_of(facts)
    if not (technique.quantises and exact):
        return
    for matrix in matrices(shapes):
        if matrix.kind == "linear" and matrix.inputs % BLOCK:
            raise NoPlace(
                f"Technique {technique.type} on a worker without a GPU needs layers whose inputs are a multiple of "
                f"{BLOCK}, and {matrix.name} has {matrix.inputs}: use technique lora, or a worker with a GPU"
            )


def trained_parameters(
    technique: TechniqueBase, method: MethodBase, facts: Mapping[str, Any], *, labels: int | None = None
) -> int:
    """How many numbers the optimizer moves. `labels`: of a classification; a reward model has one.

    Raises NoPlace where the technique finds no layer to work on.
    """
    shapes, _ = shapes_of(facts)
    scores = method.output != "tokens"
    head = _head(shapes, labels or 1, outside=isinstance(technique, Bottleneck)) if scores else 0
    # PPO's value function: a linear head and its bias, trained and never published.
    value = shapes["width"] + 1 if method.rollouts and hasattr(method, "ppo") else 0
    if isinstance(technique, Full):
        return _whole(shapes, facts, labels or 1, scores=scores) + value
    return _adapter(technique, shapes, facts, scores=scores) + head + value


def _adapter(technique: TechniqueBase, shapes: Shapes, facts: Mapping[str, Any], *, scores: bool) -> int:
    """What the technique trains of its own. One that nobody counts here yet counts as none: an adapter's weights are
    few beside the base's."""
    match technique:
        case Lora():
            return _lora(technique, shapes, scores=scores)
        case Ia3():
            return _ia3(technique, shapes, scores=scores)
        case Prefix():
            return technique.tokens * int(facts["layers"]) * 2 * shapes["key_values"]
        case Prompt():
            return technique.tokens * shapes["width"]
        case Bottleneck():
            return _bottleneck(technique, shapes, facts)
    return 0


def _whole(shapes: Shapes, facts: Mapping[str, Any], labels: int, *, scores: bool) -> int:
    if not scores:
        return int(shapes["parameters"] or facts["parameters"])
    classifier = shapes["classifier"]
    return int(facts["parameters"]) if classifier is None else _with_labels(classifier, "parameters", labels)


def _head(shapes: Shapes, labels: int, *, outside: bool) -> int:
    classifier = shapes["classifier"]
    return 0 if classifier is None else _with_labels(classifier, "outside" if outside else "head", labels)


def _with_labels(classifier: ClassifierShape, which: str, labels: int) -> int:
    counted: dict[str, int] = dict(classifier)  # type: ignore[arg-type]  # a TypedDict of ints
    return counted[which] + (labels - 2) * counted["per_label"]


def _lora(technique: Lora, shapes: Shapes, *, scores: bool) -> int:
    """r (in + out) for each adapted matrix; DoRA learns a magnitude for each output besides."""
    found = 0
    chosen = list(_chosen(technique.target_modules, shapes, scores=scores))
    if not chosen:
        raise NoPlace("technique.target_modules: none of the base model's layers has such a name")
    for matrix in chosen:
        found += _rank(technique, matrix.name) * (matrix.inputs + matrix.outputs)
        found += matrix.outputs if technique.type == "dora" else 0  # type: ignore[comparison-overlap]  # a subclass's
    return found


def _rank(technique: Lora, name: str) -> int:
    """peft's rule: the first pattern that matches the end of the name."""
    for pattern, rank in technique.rank_pattern.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return rank
    return technique.rank


def _chosen(targets: str | list[str], shapes: Shapes, *, scores: bool) -> Iterator[Matrix]:
    for matrix in matrices(shapes):
        if scores and (matrix.kind == "head" or set(HEADS) & set(matrix.name.split("."))):
            continue  # the head for labels is trained whole, and that for tokens is not there
        if targets in (ALL_LINEAR, [ALL_LINEAR]):
            if matrix.kind == "linear":
                yield matrix
        elif isinstance(targets, str):
            if re.fullmatch(targets, matrix.name):
                yield matrix
        elif any(matrix.name == name or matrix.name.endswith(f".{name}") for name in targets):
            yield matrix


def _ia3(technique: Ia3, shapes: Shapes, *, scores: bool) -> int:
    """One number for each output of a scaled layer, or for each input of a feed-forward one."""
    known = shapes["ia3"]
    targets = technique.target_modules or (known["targets"] if known else None)
    if targets is None:
        raise NoPlace("technique.target_modules: (IA)³ knows no layers of this family: name them")
    feedforward = technique.feedforward_modules or (known["feedforward"] if known else [])
    chosen = list(_chosen(targets, shapes, scores=scores))
    if not chosen:
        raise NoPlace("technique.target_modules: none of the base model's layers has such a name")
    return sum(
        each.inputs if any(each.name == name or each.name.endswith(name) for name in feedforward) else each.outputs
        for each in chosen
    )


def _bottleneck(technique: Bottleneck, shapes: Shapes, facts: Mapping[str, Any]) -> int:
    """Two matrices and their biases for each place."""
    if shapes["bottlenecks"] is None:
        raise NoPlace("technique: bottleneck adapters have no place in models of this family")
    hidden = facts["hidden_size"]
    inner = max(1, int(hidden // technique.reduction_factor))
    each = 2 * hidden * inner + inner + hidden
    return int(facts["layers"] * shapes["bottlenecks"][technique.placement] * each)
