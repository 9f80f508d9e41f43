"""The number of weights that a technique trains, from the shapes of the base model's layers. Exact for base models
whose facts hold shapes; approximate for those that were converted by earlier releases."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from api.spec.base_model import EXPERT_KINDS, BaseModelFacts, ClassifierShape, Layer, Matrix, ModelShape, Shapes
from api.spec.methods import MethodBase
from api.spec.target_modules import NoTargetModules
from api.spec.techniques import TechniqueBase

BLOCK = 64
"""Number of weights that share a scale when they are quantized to four bits."""
QUANTIZED = ("linear", "shared")
"""Kinds of matrices that are quantized."""


def shapes_of(facts: BaseModelFacts) -> tuple[Shapes, bool]:
    """Return (the shapes, whether they are exact)."""
    if facts.get("shapes"):
        shapes = facts["shapes"]
        # Releases that did not record experts listed layers with only a small part of all weights.
        return shapes, _weights(shapes) >= 0.5 * (shapes["parameters"] or 0)
    return _guessed(facts), False


def _guessed(facts: BaseModelFacts) -> Shapes:
    """Return the shapes of a typical decoder with as many weights as the base model: with gated feed-forward parts, and
    with keys and values as wide as the queries."""
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
        classifier=ClassifierShape(parameters=facts["parameters"] + 2 * hidden, per_label=hidden, outside=2 * hidden),
        width=hidden,
        key_values=hidden,
        ia3={"targets": ["k_proj", "v_proj", "down_proj"], "feedforward": ["down_proj"]},
        bottlenecks={"houlsby": 2, "pfeiffer": 1},
    )


def model_shape(facts: BaseModelFacts, method: MethodBase) -> ModelShape:
    """Return the shape of the base model as this method trains it."""
    shapes, _ = shapes_of(facts)
    return ModelShape(
        matrices=tuple(matrices(shapes)),
        scores=method.output != "tokens",
        ia3=shapes["ia3"],
        layers=int(facts.get("layers", 0)),
        hidden_size=int(facts.get("hidden_size", 0)),
        embedding_size=shapes["width"],
        key_value_size=shapes["key_values"],
        bottlenecks=shapes["bottlenecks"],
    )


def matrices(shapes: Shapes) -> Iterator[Matrix]:
    """Yield every matrix of the layers."""
    tied = _counts_the_head_twice(shapes)
    for matrix in expanded(shapes["layers"]):
        yield replace(matrix, kind="tied") if tied and matrix.kind == "head" else matrix


def expanded(layers: Mapping[str, Layer]) -> Iterator[Matrix]:
    """Yield every matrix. A name with {} stands for several matrices; the numbers from 0 replace the {}."""
    for pattern, (kind, inputs, outputs, count, *experts) in layers.items():
        for number in range(count):
            yield Matrix(pattern.replace("{}", str(number)), kind, inputs, outputs, *experts)


def _counts_the_head_twice(shapes: Shapes) -> bool:
    """Return whether the head shares its weights with the input embeddings although the base model's facts do not
    record it: the listed layers then have more weights than the model."""
    return shapes["parameters"] is not None and _weights(shapes) > shapes["parameters"]


def _weights(shapes: Shapes) -> int:
    return sum(
        count * Matrix(pattern, kind, inputs, outputs, *experts).size
        for pattern, (kind, inputs, outputs, count, *experts) in shapes["layers"].items()
    )


def require_layers(technique: TechniqueBase, method: MethodBase, facts: BaseModelFacts) -> None:
    """Raise NoTargetModules if the technique names layers that the base model lacks or that cannot be adapted.

    For a base without exact shapes, the trainer makes this check once it has loaded the weights.
    """
    if shapes_of(facts)[1]:
        technique.added_parameters(model_shape(facts, method))


def require_whole_blocks(technique: TechniqueBase, facts: BaseModelFacts) -> None:
    """Raise NoTargetModules if a worker without a GPU cannot quantize the layers. On a CPU, bitsandbytes returns wrong
    values for a layer in which a block of weights continues in the next row.

    For base models without exact shapes, the trainer makes this check once it has loaded the weights.
    """
    shapes, exact = shapes_of(facts)
    if not (technique.quantizes and exact):
        return
    for matrix in matrices(shapes):
        if matrix.kind in QUANTIZED and matrix.inputs % BLOCK:
            raise NoTargetModules(
                f"Technique {technique.type} on a worker without a GPU needs layers whose inputs are a multiple of "
                f"{BLOCK}, and {matrix.name} has {matrix.inputs}: use technique lora, or a worker with a GPU"
            )


def trained_parameters(
    technique: TechniqueBase, method: MethodBase, facts: BaseModelFacts, *, labels: int | None = None
) -> int:
    """Return the number of weights that the optimizer updates. `labels`: number of classes; a reward model has one
    output.

    Raise NoTargetModules if the technique has no layers to adapt.
    """
    shapes, _ = shapes_of(facts)
    scores = method.output != "tokens"
    head = _head(shapes, labels or 1) if scores else 0
    # The value function is a linear head with a bias.
    value = shapes["width"] + 1 if method.value_head else 0
    if technique.whole_model:
        return _whole(shapes, facts, labels or 1, scores=scores) + value
    return technique.added_parameters(model_shape(facts, method)) + head + value


def untrained_experts(technique: TechniqueBase, method: MethodBase, facts: BaseModelFacts) -> str | None:
    """Return a sentence about the experts and routers that the technique does not train; None if there are none."""
    _, exact = shapes_of(facts)
    if not exact and facts.get("shapes"):
        return (
            "This base model was added by a release that did not record the weights of experts, so estimates leave "
            "these weights out. The operator can remove the model and add it again"
        )
    shape = model_shape(facts, method)
    taken = None if technique.names_layers else technique.default_layers(shape)
    if taken is None:
        return None
    rest = [matrix for matrix in shape.matrices if matrix.kind in EXPERT_KINDS and matrix not in taken]
    if not rest:
        return None
    names = sorted({".".join(matrix.name.split(".")[-2:]) for matrix in rest})
    count = sum(matrix.size for matrix in rest)
    return f"'{technique.type}' leaves out {', '.join(names)} ({count:,} weights of experts and routers)"


def _whole(shapes: Shapes, facts: BaseModelFacts, labels: int, *, scores: bool) -> int:
    if not scores:
        return int(shapes["parameters"] or facts["parameters"])
    classifier = shapes["classifier"]
    return int(facts["parameters"]) if classifier is None else _with_labels(classifier, "parameters", labels)


def _head(shapes: Shapes, labels: int) -> int:
    classifier = shapes["classifier"]
    return 0 if classifier is None else _with_labels(classifier, "outside", labels)


def _with_labels(classifier: ClassifierShape, which: str, labels: int) -> int:
    counted: dict[str, int] = dict(classifier)  # type: ignore[arg-type]  # a TypedDict of ints
    return counted[which] + (labels - 2) * counted["per_label"]
