"""The codes of errors and findings, collected from the syntax trees of the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

from api.spec.lifecycle import FAILURES

ROOT = Path(__file__).parents[2]

COMPUTED = {"f'invalid_{kind}_file'": ("invalid_training_file", "invalid_validation_file")}
COMPUTED["f'invalid_{file.kind}_file'"] = COMPUTED["f'invalid_{kind}_file'"]
"""Codes that the source computes, with their values."""
POSITIONS = {"RowWarning": 0, "LineError": 0, "RowsInvalid": 0, "_reason": 0, "warn_once": 1, "_fail": 1, "report": 1}
POSITIONS |= dict.fromkeys(("error", "warning", "row_error", "row_warning"), 1)
"""Functions that get a code at this position, by name. Other functions of the name have no text there."""


def codes() -> set[str]:
    """Return every code that a user can get in an error, an estimate or a finding."""
    found = {policy.code for policy in FAILURES.values()} | {reason.value for reason in FAILURES}
    for path in [*(ROOT / "api").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]:
        if "cli" not in path.parts:
            found.update(_of_file(ast.parse(path.read_text(encoding="utf-8"))))
    return found


def _of_file(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="code", value=value) | ast.Assign(targets=[ast.Name(id="code")], value=value):
                yield from _literal(value)
            case ast.Assign(targets=[ast.Name(id="_CODES")], value=ast.Dict(values=values)):
                for value in values:
                    yield from _literal(value)
            case ast.FunctionDef(name="__init__", args=ast.arguments(kwonlyargs=names, kw_defaults=defaults)):
                for name, default in zip(names, defaults, strict=True):
                    if name.arg == "code" and default is not None:
                        yield from _literal(default)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if name in POSITIONS:
                yield from _literal(args[POSITIONS[name]]) if len(args) > POSITIONS[name] else ()


def _literal(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(code)):
            yield code
        case ast.JoinedStr():
            yield from COMPUTED[ast.unparse(value)]
