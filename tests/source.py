"""The project's code as a graph of imports, read from the source: nothing is imported to look at it."""

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("api", "worker", "migrations")
AROUND = ("tests", "benchmarks", "examples")


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the project, by its dotted name."""
    with _without_collections():
        return {name: _tree(name) for name in _paths() if within(name, PACKAGES)}


@cache
def nodes(module: str) -> tuple[ast.AST, ...]:
    """Every node of a module's tree. Several tests read them all."""
    with _without_collections():
        return tuple(ast.walk(modules()[module]))


@cache
def _paths() -> dict[str, Path]:
    """The file of every module of the project and around it, by its dotted name."""
    paths = [path for folder in (*PACKAGES, *AROUND) for path in sorted((ROOT / folder).rglob("*.py"))]
    return {dotted(path): path for path in paths}


def _tree(module: str) -> ast.Module:
    path = _paths()[module]
    return ast.parse(path.read_text(), str(path))


def dotted(path: Path) -> str:
    """Return the name of the module in a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports, also inside its functions: our modules by full name, others as they are written."""
    with _without_collections():
        return frozenset(name for statement in _statements(_tree(module)) for name in _imported(statement))


@contextmanager
def _without_collections() -> Iterator[None]:
    """A tree is many objects and no garbage, and collections would take twice the time of parsing it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every statement below a node. No expression holds one, so that most nodes are never visited."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield child
            yield from _statements(child)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module is not None, "relative imports are not used here"
        members = [f"{node.module}.{alias.name}" for alias in node.names]
        submodules = [member for member in members if member in _paths()]
        yield from submodules
        if len(submodules) < len(members):
            yield node.module


@cache
def _loads(module: str) -> frozenset[str]:
    """What a module's own imports load: our modules with the packages around them, and others' top-level names."""
    found = set()
    for name in imports(module):
        ours = name in _paths()
        found.add(name if ours else name.partition(".")[0])
        found.update(".".join(name.split(".")[: i + 1]) for i in range(name.count(".")) if ours)
    return frozenset(found)


@cache
def reaches(module: str) -> frozenset[str]:
    """Everything that is loaded along with a module: ours and, by their top-level names, others."""
    seen, waiting = {module}, {module}
    while waiting:
        found = _loads(waiting.pop()) - seen
        seen |= found
        waiting |= found & _paths().keys()
    return frozenset(seen)


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
