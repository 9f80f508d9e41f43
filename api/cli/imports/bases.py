"""`bases.json` and `judges.json`: for each model of the source, the model that takes its place here.

`bases.json` has the models that jobs start from, `judges.json` those that graders ask. Both are created with
suggestions, which the user may change. `attune import push` only adds missing models.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from api.cli.body import read_body
from api.cli.client import Document
from api.cli.errors import CommandError, ExitCode
from api.infra.private_file import write_private_file

BASES = "bases.json"
JUDGES = "judges.json"

Models = Mapping[str, str | None]
"""{model of the source: model here, or None if there is none}."""


def complete_bases(folder: Path, names: Iterable[str], catalog: Document) -> Models:
    """Return the table of bases.json. Missing `names` are added first, each with a suggestion from this server's
    catalog."""
    return _complete(folder / BASES, {name: suggested_base(name, catalog) for name in names})


def complete_judges(folder: Path, names: Iterable[str], catalog: Document) -> Models:
    """Return the table of judges.json, completed like that of bases.json."""
    return _complete(folder / JUDGES, {name: suggested_judge(name, catalog) for name in names})


def _complete(path: Path, suggestions: Models) -> Models:
    table = read_body(path) if path.exists() else {}
    if not all(value is None or isinstance(value, str) for value in table.values()):
        raise CommandError(ExitCode.REFUSED, f"{path}: each model needs the name of a model here, or null.")
    missing = {name: suggestions[name] for name in sorted(suggestions.keys() - table.keys())}
    if missing:
        table |= missing
        write_private_file(path, json.dumps(table, indent=2, ensure_ascii=False).encode() + b"\n")
    return table


def suggested_base(name: str, catalog: Document) -> str | None:
    """Return the base model of the same name, or else the language model with the most parameters; None if there is
    none.

    Return None also for a tuned model, which a base model cannot replace.
    """
    if name.startswith("ft:"):
        return None
    sizes = _language_models(catalog)
    return name if name in sizes else max(sizes, key=lambda each: sizes[each], default=None)


def suggested_judge(name: str, catalog: Document) -> str | None:
    """Return the judge or language model of the same name; None if there is none.

    No other model is suggested, because grades of different judges cannot be compared.
    """
    return name if name in catalog["judges"] or name in _language_models(catalog) else None


def _language_models(catalog: Document) -> dict[str, int]:
    """Return {base model: number of parameters} of the language models."""
    bases = (base for base in catalog["base_models"] if base["kind"] == "causal_lm")
    return {base["id"]: base["facts"].get("parameters") or 0 for base in bases}


def models_in(grader: object) -> set[str]:
    """Return the models that a grader or testing criterion names, including those in nested graders."""
    if isinstance(grader, list):
        return {name for each in grader for name in models_in(each)}
    if not isinstance(grader, dict):
        return set()
    own = {grader["model"]} if isinstance(grader.get("model"), str) and "type" in grader else set()
    return own | {name for each in grader.values() for name in models_in(each)}


def with_judges_here(grader: Any, judges: Models) -> Any:
    """Return the grader with each model of the source replaced by the model that the table names for it. A model
    without one stays."""
    if isinstance(grader, list):
        return [with_judges_here(each, judges) for each in grader]
    if not isinstance(grader, dict):
        return grader
    changed = {name: with_judges_here(value, judges) for name, value in grader.items()}
    if "type" in grader and isinstance(grader.get("model"), str):
        changed["model"] = judges.get(grader["model"]) or grader["model"]
    return changed


def judges_problem(grader: object, judges: Models) -> str | None:
    """Return a sentence that names the models without a counterpart that the grader still has, or None if there are
    none."""
    missing = sorted(name for name in models_in(grader) if judges.get(name, name) is None)
    return (
        f"there is no judge here for {', '.join(missing)}: name one in {JUDGES}, or first push the job that made it"
        if missing
        else None
    )


def describe_judges(grader: object, judges: Models) -> str:
    """Return the grader's models and their counterparts, such as `, judge gpt-4o → qwen`; an empty text for none."""
    return "".join(f", judge {name} → {judges.get(name) or 'none'}" for name in sorted(models_in(grader)))
