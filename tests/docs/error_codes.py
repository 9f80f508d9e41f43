"""The codes of errors and findings, collected from the syntax trees of the source.

A code is a text that the source passes as `code`, by name or by position, assigns to `code`, or puts under the key
"code".
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from api.spec.lifecycle import FAILURES

ROOT = Path(__file__).parents[2]

COMPUTED = {"f'invalid_{kind}_file'": ("invalid_training_file", "invalid_validation_file")}
COMPUTED["f'invalid_{file.kind}_file'"] = COMPUTED["f'invalid_{kind}_file'"]
"""Codes that the source computes, with their values."""
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LOCAL = {"report": {1}}
"""Positions in calls of a local variable that holds one of several functions."""

Positions = Mapping[str, set[int]]
"""The positions of the parameter `code` in functions and classes, by their names."""


@cache
def codes() -> frozenset[str]:
    """Return every code that a user can get in an error, an estimate or a finding."""
    files = [*(ROOT / "api").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files if "cli" not in path.parts]
    positions = _positions(trees)
    of_jobs = {policy.code for policy in FAILURES.values()} | {reason.value for reason in FAILURES}
    return frozenset(of_jobs).union(*(_of_file(tree, positions) for tree in trees))


def _positions(trees: Sequence[ast.AST]) -> Positions:
    found = defaultdict(set, LOCAL)
    for node in (node for tree in trees for node in ast.walk(tree)):
        for name, parameters in _signatures(node):
            if "code" in parameters and name != "__init__":  # that of a class counts under the name of the class
                found[name].add(parameters.index("code"))
    return found


def _signatures(node: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the positional parameters of a function, or of a class and its methods."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        if names[:1] in (["self"], ["cls"]):
            names = names[1:]
        yield node.name, names
    if isinstance(node, ast.ClassDef):
        fields = [field.target.id for field in node.body if _is_field(field)]  # type: ignore[attr-defined]
        made = [names for part in node.body for name, names in _signatures(part) if name == "__init__"]
        yield node.name, made[0] if made else fields


def _is_field(node: ast.AST) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _of_file(tree: ast.AST, positions: Positions) -> set[str]:
    given = (value for node in ast.walk(tree) for value in _values(node, positions))
    return {code for value in given for code in _literals(value) if CODE.fullmatch(code)}


def _values(node: ast.AST, positions: Positions) -> Iterator[ast.expr]:
    """Yield the expressions whose value becomes a code."""
    match node:
        case ast.keyword(arg="code", value=value):
            yield value
        case ast.Assign(targets=[ast.Name(id="code")], value=value):
            yield value
        case ast.AnnAssign(target=ast.Name(id="code"), value=ast.expr() as value):
            yield value
        case ast.Assign(targets=[ast.Name(id="_CODES")], value=ast.Dict(values=values)):
            yield from values
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield value
        case ast.arguments(kwonlyargs=names, kw_defaults=defaults):
            for name, default in zip(names, defaults, strict=True):
                if name.arg == "code" and default is not None:
                    yield default
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args):
            yield from (args[position] for position in positions.get(name, ()) if position < len(args))


def _literals(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(code)):
            yield code
        case ast.JoinedStr():
            yield from COMPUTED.get(ast.unparse(value), ())
        case ast.IfExp(body=body, orelse=orelse):
            yield from (*_literals(body), *_literals(orelse))
        case ast.BoolOp(values=values):
            for each in values:
                yield from _literals(each)
