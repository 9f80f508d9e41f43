"""The project's code as a graph of imports, read from the source: nothing is imported to look at it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("api", "worker", "migrations")
AROUND = ("tests", "benchmarks", "examples")


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the project, by its dotted name."""
    return _parsed(PACKAGES)


@cache
def _with_tests() -> dict[str, ast.Module]:
    return modules() | _parsed(AROUND)


def _parsed(folders: tuple[str, ...]) -> dict[str, ast.Module]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {_dotted(path): ast.parse(path.read_text(), str(path)) for path in paths}


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports, also inside its functions: our modules by full name, others as they are written."""
    return frozenset(name for node in ast.walk(_with_tests()[module]) for name in _imported(node))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module is not None, "relative imports are not used here"
        members = [f"{node.module}.{alias.name}" for alias in node.names]
        submodules = [member for member in members if member in _with_tests()]
        yield from submodules
        if len(submodules) < len(members):
            yield node.module


@cache
def reaches(module: str) -> frozenset[str]:
    """Everything that is loaded along with a module: ours and, by their top-level names, others."""
    seen, waiting = {module}, [module]
    while waiting:
        for name in imports(waiting.pop()):
            ours = name in _with_tests()
            parents = [".".join(name.split(".")[: i + 1]) for i in range(name.count("."))] if ours else []
            for found in [*parents, name] if ours else [name.partition(".")[0]]:
                if found not in seen:
                    seen.add(found)
                    waiting.extend([found] if found in _with_tests() else [])
    return frozenset(seen)


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
