"""The choice of the layers that a technique adapts.

The same functions count the trained weights for an estimate, decide whether a job is accepted, and choose the layers
whose names are passed to peft.
"""

from collections.abc import Mapping, Sequence

from api.spec import patterns
from api.spec.base_model import Matrix

ALL_LINEAR = "all-linear"
MAX_LISTED_NAMES = 24
"""Maximum number of layer names in an error message."""
FIELD = "technique.target_modules"


class NoTargetModules(ValueError):
    """The technique cannot adapt the base model: the requested layers do not exist or cannot be adapted, or no layer
    can be."""

    def __init__(self, message: str, param: str = "technique") -> None:
        super().__init__(message)
        self.param = param


def is_all_linear(targets: object) -> bool:
    return targets in (ALL_LINEAR, [ALL_LINEAR])


def choose(targets: str | Sequence[str], matrices: Sequence[Matrix], *, quantized: bool = False) -> list[Matrix]:
    """Return the matrices that `targets` names: "all-linear", names, or one regular expression.

    `quantized`: whether the weights of linear layers are stored in four bits. Layers of the kind `shared` can then not
    be adapted, because peft would add the update to their weights. Raise NoTargetModules for a name or an expression
    that matches no matrix, and for matrices that cannot be adapted.
    """
    if is_all_linear(targets):
        kinds = {"linear", "experts"} if quantized else {"linear", "experts", "shared"}
        found = [matrix for matrix in matrices if matrix.kind in kinds]
    elif isinstance(targets, str):
        matched = patterns.full_matches(targets, tuple(matrix.name for matrix in matrices))
        found = [matrix for matrix in matrices if matrix.name in matched]
        if not found:
            raise NoTargetModules(
                f"{FIELD}: '{targets[:200]}' matches none of the base model's layers. {listed(matrices)}", FIELD
            )
    else:
        missing = [name for name in targets if not any(matches(name, matrix.name) for matrix in matrices)]
        if missing:
            names = ", ".join(missing)[:200]
            message = f"{FIELD}: the base model has no adaptable layer called {names}. {listed(matrices)}"
            raise NoTargetModules(message, FIELD)
        found = [matrix for matrix in matrices if any(matches(name, matrix.name) for name in targets)]
    _require_adaptable(found, quantized=quantized)
    return found


def _require_adaptable(found: Sequence[Matrix], *, quantized: bool) -> None:
    if tied := [matrix.name for matrix in found if matrix.kind == "tied"]:
        message = f"{FIELD}: {tied[0]} shares the weights of the input embeddings and has none of its own: leave it out"
        raise NoTargetModules(message, FIELD)
    apart = [matrix.name for matrix in found if matrix.kind == "apart" or (quantized and matrix.kind == "shared")]
    if apart:
        raise NoTargetModules(
            f"{FIELD}: peft cannot adapt the weights of {apart[0]} in this family: leave it out", FIELD
        )


def matches(name: str, layer: str) -> bool:
    """Return whether peft applies the name to this layer: `name` is the layer's whole name, or its end after a dot."""
    return layer == name or layer.endswith(f".{name}")


def listed(matrices: Sequence[Matrix]) -> str:
    """Return a sentence that lists the last names of the matrices, for an error message."""
    names = sorted({matrix.name.rpartition(".")[2] for matrix in matrices if matrix.kind not in ("tied", "apart")})
    more = ", …" if len(names) > MAX_LISTED_NAMES else ""
    return f"The layers are {', '.join(names[:MAX_LISTED_NAMES])}{more}."


def require_patterns(given: Mapping[str, Sequence[str]]) -> None:
    """Raise NoTargetModules for a pattern that cannot be used. `given`: {field of the technique: its patterns}."""
    for field, values in given.items():
        try:
            patterns.require(values)
        except patterns.BadPattern as error:
            param = f"technique.{field}"
            raise NoTargetModules(f"{param}: {error}", param) from None
