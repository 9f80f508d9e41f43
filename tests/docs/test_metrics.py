"""docs/metrics.md explains every metric of every method."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
SOURCES = [
    *(ROOT / "worker" / "methods").glob("*.py"),
    ROOT / "worker" / "engine" / "callbacks.py",
    ROOT / "worker" / "engine" / "generation" / "rollout_objective.py",
]
NOT_METRICS = {"per_row", "per_token", "METHODS", "self.state"}
"""Names of other dictionaries in these files."""


def metrics() -> Iterator[str]:
    """Yield the string keys of the dictionaries that hold metrics."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        others = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.keyword) and _names(node) & NOT_METRICS
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict) and id(node) not in others:
                yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


def _names(node: ast.Assign | ast.AnnAssign | ast.keyword) -> set[str]:
    match node:
        case ast.Assign(targets=targets):
            return {ast.unparse(target) for target in targets}
        case ast.AnnAssign(target=target):
            return {ast.unparse(target)}
        case ast.keyword(arg=str(name)):
            return {name}
    return set()


def test_every_metric_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert set(metrics()) - explained == set()
