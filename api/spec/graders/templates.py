"""Templates: texts with `{{ item.key }}` and `{{ sample.output_text }}` in them.

A variable is a namespace and a path of keys and indices, such as `item.answers[0].text`. Its value is inserted once,
and is neither run nor rendered again, so neither a template nor a row can execute anything.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field

from api.spec.formats.base import truncate
from api.spec.graders.base import Case, GradingError

MAX_TEMPLATE = 65_536
"""Maximum length of a template, in characters."""
MAX_VARIABLES = 64
"""Maximum number of variables in a template."""
MAX_RENDERED = 100_000
"""Maximum length of a rendered template, in characters. The time of some metrics grows with the product of two lengths.
"""

_VARIABLE = re.compile(r"\{\{([^{}]*)\}\}")
_PATH = re.compile(r"(item|sample)((?:\.[^\s.\[\]]+|\[\d{1,6}\]){1,32})")
_STEP = re.compile(r"\.([^\s.\[\]]+)|\[(\d+)\]")

Step = str | int


def _checked(template: str) -> str:
    _parse(template)
    return template


Template = Annotated[str, Field(max_length=MAX_TEMPLATE), AfterValidator(_checked)]


def render(template: str, case: Case) -> str:
    """Return the template with the values inserted: strings unchanged, other values as JSON.

    Raises GradingError if the row or the answer lacks a variable, or if the text becomes too long.
    """
    texts, paths = _parse(template)
    pieces, length = [texts[0]], len(texts[0])
    for path, text in zip(paths, texts[1:], strict=True):
        value = _as_text(_look_up(path, case), path)
        pieces += (value, text)
        length += len(value) + len(text)
        if length > MAX_RENDERED:
            message = f"{_name(path)}: the rendered text is longer than {MAX_RENDERED:,} characters"
            raise GradingError("truncated_observation_error", message)
    return "".join(pieces)


def namespaces(template: str) -> set[Step]:
    """Return which of the namespaces `item` and `sample` the template uses."""
    return {path[0] for path in _parse(template)[1]}


def value(variable: str, case: Case) -> object:
    """Return the value of a variable such as `item.messages`. Raises GradingError if the row or the answer lacks the
    variable."""
    return _look_up(_path(variable), case)


@lru_cache(maxsize=256)
def _parse(template: str) -> tuple[tuple[str, ...], tuple[tuple[Step, ...], ...]]:
    """Return the texts around the variables, one more than there are variables, and the paths of the variables."""
    texts_and_variables = _VARIABLE.split(template)
    texts, variables = texts_and_variables[::2], texts_and_variables[1::2]
    if len(variables) > MAX_VARIABLES:
        raise ValueError(f"the template has {len(variables)} variables; the most is {MAX_VARIABLES}")
    for text in texts:
        if "{{" in text:
            raise ValueError(
                f"'{truncate(text[text.index('{{') :], 30)}' opens a variable that is not closed with }}}}"
            )
    return tuple(texts), tuple(_path(variable.strip()) for variable in variables)


def _path(variable: str) -> tuple[Step, ...]:
    match = _PATH.fullmatch(variable)
    if match is None:
        raise ValueError(
            f"'{truncate(variable)}' is not a variable: write {{{{ item.key }}}} or {{{{ sample.output_text }}}}"
        )
    namespace, steps = match.groups()
    path = (namespace, *(key or int(index) for key, index in _STEP.findall(steps)))
    if namespace == "sample" and path[1] not in ("output_text", "output_json", "output_tools", "choices"):
        raise ValueError(
            f"'{truncate(variable)}' does not exist: sample has output_text, output_json, output_tools and choices only"
        )
    if path[:2] == ("sample", "output_text") and len(path) > 2:
        raise ValueError(f"'{truncate(variable)}' does not exist: sample.output_text is a string")
    return path


def _look_up(path: tuple[Step, ...], case: Case) -> object:
    value: object = case.item
    match path[:2]:
        case "sample", "output_text":
            return case.text
        case "sample", "output_json":
            value = case.json
        case "sample", "output_tools":
            value = [*case.tools]
        case "sample", _:
            value = case.choices
    for depth in range(2 if path[0] == "sample" else 1, len(path)):
        match value, path[depth]:
            case list(), int(index) if index < len(value):
                value = value[index]
            case Mapping(), str(key) if key in value:
                value = value[key]
            case _:
                where = "the answer" if path[0] == "sample" else "the row"
                message = f"{_name(path)}: {where} has no {_name(path[: depth + 1])}"
                raise GradingError("invalid_variable_error", message)
    return value


def _as_text(value: object, path: tuple[Step, ...]) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):  # a ValueError for an integer of more than 4300 digits
        raise GradingError("other_error", f"{_name(path)}: the value is nested too deeply, or too large") from None


def _name(path: tuple[Step, ...]) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path[1:]]
    return truncate(f"{path[0]}{''.join(steps)}", 120)
