"""Generator of settings.md: `make docs`, or `python -m docs.settings`."""

import ast
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from api.settings import JudgeServer, Settings

PAGE = Path(__file__).with_suffix(".md")

SECTIONS = {
    "data_dir": "Data",
    "host": "Server",
    "max_file_bytes": "Limits of the API",
    "preview_processes": "Previews and estimates",
    "webhook_private_hosts": "Webhooks",
    "wandb_api_key": "Trackers",
    "hub_token": "Hub",
    "convert_seconds": "Base models",
    "prepare_slots": "Preparation and training",
    "sampler": "Completions",
    "keep_files_days": "Retention",
    "lease_s": "Leases and intervals of workers",
}
"""Heading of each section by its first setting."""

INTRODUCTION = """# Settings

This page is generated from [api/settings.py](../api/settings.py) by `make docs`.

Each setting is an environment variable and a key of the TOML file that `ATTUNE_CONFIG` names. The key is the variable's
name in lower case without `ATTUNE_`. Command-line options override variables, and variables override the file.
"""

NAMES: dict[Any, str] = {
    str: "text",
    SecretStr: "secret text",
    Path: "path",
    bool: "true or false",
    int: "integer",
    float: "number",
    dict[str, JudgeServer]: "JSON object",
}
SYMBOLS = ((Gt, "gt", ">"), (Ge, "ge", "≥"), (Le, "le", "≤"))
UNITS = ((1024**3, "GiB"), (1024**2, "MiB"))


def page() -> str:
    """Return the content of settings.md."""
    return INTRODUCTION + "".join(_lines())


def _lines() -> Iterator[str]:
    docstrings = _docstrings()
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            yield f"\n## {SECTIONS[name]}\n\n| variable | type | default | meaning |\n|---|---|---|---|\n"
        yield f"| `ATTUNE_{name.upper()}` | {_type(field)} | {_default(name, field)} | {docstrings[name]} |\n"


def _docstrings() -> dict[str, str]:
    """Return the string below each field, on one line. Raise KeyError on use if a field has none."""
    (cls,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(cls, ast.ClassDef), cls
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _type(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (member for member in get_args(kind) if member is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    bounds = (
        f"{symbol} {getattr(bound, name)}"
        for bound in field.metadata
        for cls, name, symbol in SYMBOLS
        if isinstance(bound, cls)
    )
    return " ".join([NAMES[kind], ", ".join(bounds)]).strip()


def _default(name: str, field: FieldInfo) -> str:
    value = field.default
    match value:
        case None:
            return "not set"
        case SecretStr() | "" | dict():
            return "empty"
        case bool():
            return f"`{str(value).lower()}`"
    for size, unit in UNITS if name.endswith("_bytes") and value else ():
        if value % size == 0:
            return f"`{value}` ({value // size} {unit})"
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
