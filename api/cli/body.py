"""From the options of `attune jobs create`, `estimate` and `preview` to the body of `POST /v1/fine_tuning/jobs`.

Only what was asked for is sent; the server knows the defaults, the limits and what fits together.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from api.cli.client import Document, open_input
from api.cli.errors import CommandError, ExitCode


def read_body(path: Path | None) -> Document:
    """The body to start from: nothing, a JSON file, or standard input for `-`."""
    if path is None:
        return {}
    if str(path) == "-":
        text = sys.stdin.buffer.read()
    else:
        with open_input(path) as file:
            text = file.read()
    try:
        body = json.loads(text)
    except ValueError as error:
        raise CommandError(ExitCode.REFUSED, f"{path} is not JSON: {error}.") from None
    if not isinstance(body, dict):
        raise CommandError(ExitCode.REFUSED, f"{path} does not hold a JSON object.")
    return body


def job_body(
    body_file: Path | None,
    values: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    assignments: Sequence[str] | None,
) -> Document:
    """What `--body` holds, and over it the options: by their dotted names, by the method's own, and by `--set`."""
    body = read_body(body_file)
    put_given(body, values)
    put_hyperparameters(body, hyperparameters)
    for assignment in assignments or []:
        put_assignment(body, assignment)
    name_types(body)
    return body


def require_named(body: Document, training_file: str | None) -> None:
    """Before anything is uploaded: what the server would refuse only afterwards."""
    if "model" not in body:
        raise CommandError(ExitCode.REFUSED, "which base model? Give --model; `attune models list` names them.")
    if training_file is None and "training_file" not in body:
        raise CommandError(ExitCode.REFUSED, "no training file: give a path or the id of an uploaded file.")


def put(body: Document, dotted: str, value: Any) -> None:
    """Set `training.max_length` as `body["training"]["max_length"]`, making the objects on the way."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = body.get(parent)
        if inner is None:
            inner = body[parent] = {}
        if not isinstance(inner, dict):
            raise CommandError(ExitCode.REFUSED, f"{dotted}: {parent} holds a value already, not an object.")
        body = inner
    body[last] = value


def put_given(body: Document, values: Mapping[str, Any]) -> None:
    for dotted, value in values.items():
        if value is not None:
            put(body, dotted, value)


def put_hyperparameters(body: Document, values: Mapping[str, Any]) -> None:
    """They sit below the method's own name; the method is `supervised` where none is named."""
    method = body.get("method")
    kind = method.get("type", "supervised") if isinstance(method, dict) else "supervised"
    put_given(body, {f"method.{kind}.hyperparameters.{name}": value for name, value in values.items()})


def name_types(body: Document) -> None:
    """Options of a technique or a method whose type was left out are those of the default one."""
    for part, default in (("technique", "lora"), ("method", "supervised")):
        if isinstance(body.get(part), dict):
            body[part].setdefault("type", default)


def put_assignment(body: Document, assignment: str) -> None:
    """`--set training.max_length=512`."""
    dotted, equals, text = assignment.partition("=")
    if not equals or not all(dotted.split(".")):
        raise CommandError(ExitCode.REFUSED, f"--set {assignment}: write it as name=value or group.name=value.")
    put(body, dotted, value_of(text))


def value_of(text: str | None) -> Any:
    """What was typed: JSON if it reads as JSON, else the text itself (`auto`)."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text
