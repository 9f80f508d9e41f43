"""`bases.json`: for each model that jobs and graders of the source name, the model that takes its place here.

The file is created with suggestions, which the user may change. `attune import push` only adds missing models.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from api.cli.body import read_body
from api.cli.client import Document
from api.cli.errors import CommandError, ExitCode
from api.cli.imports.folder import write_whole

BASES = "bases.json"

Bases = Mapping[str, str | None]


def complete_bases(folder: Path, names: Iterable[str], here: Sequence[Document]) -> Bases:
    """Return the table of bases.json. Missing `names` are added first, each with a suggestion among this server's base
    models (`here`)."""
    path = folder / BASES
    table = read_body(path) if path.exists() else {}
    if not all(value is None or isinstance(value, str) for value in table.values()):
        raise CommandError(ExitCode.REFUSED, f"{path}: each model needs the name of a base model here, or null.")
    missing = {name: suggest(name, here) for name in sorted(set(names) - table.keys())}
    if missing or not path.exists():
        table |= missing
        write_whole(path, json.dumps(table, indent=2, ensure_ascii=False).encode() + b"\n")
    return table


def suggest(name: str, here: Sequence[Document]) -> str | None:
    """Return the base model of the same name, or else the language model with the most parameters; None if there is
    none.

    Return None also for a tuned model, which a base model cannot replace.
    """
    if name.startswith("ft:"):
        return None
    models = {base["id"]: base["facts"].get("parameters") or 0 for base in here if base["kind"] == "causal_lm"}
    return name if name in models else max(models, key=lambda each: models[each], default=None)


def models_in(grader: object) -> set[str]:
    """Return the models that a grader or testing criterion names, including those in nested graders."""
    if isinstance(grader, list):
        return {name for each in grader for name in models_in(each)}
    if not isinstance(grader, dict):
        return set()
    own = {grader["model"]} if isinstance(grader.get("model"), str) and "type" in grader else set()
    return own | {name for each in grader.values() for name in models_in(each)}


def with_models_here(grader: Any, bases: Bases) -> Any:
    """Return the grader with each model of the source replaced by the model that the table names for it."""
    if isinstance(grader, list):
        return [with_models_here(each, bases) for each in grader]
    if not isinstance(grader, dict):
        return grader
    changed = {name: with_models_here(value, bases) for name, value in grader.items()}
    if "type" in grader and isinstance(grader.get("model"), str):
        changed["model"] = bases.get(grader["model"]) or grader["model"]
    return changed
