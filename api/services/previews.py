"""Looking at rows as a job would: what a preview shows, and what an estimate counts.

The work is done by a child (api.infra.preview_process); here is what it is asked, and what it is given to read.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.infra.storage import ObjectMissing
from api.records import arrays, files
from api.records.arrays import Arrays
from api.records.base_models import BaseModelRow
from api.records.files import File
from api.services import layers, lineage
from api.services.admission import validate
from api.services.lineage import Origin
from api.spec.fields import AUTO
from api.spec.lifecycle import FAILURES, FailureReason
from api.spec.recipe import MIN_EXAMPLES, Recipe
from api.spec.resolve import max_row_tokens

PARQUET = b"PAR1"
"""Its directory is at its end: half of such a file is worth nothing."""


class RowsRefused(InvalidRequest):
    """What prepare would say of these rows."""


@dataclass(frozen=True)
class PreviewQuery:
    """A recipe, and what of the database it names."""

    recipe: Recipe
    origin: Origin
    files: tuple[tuple[str, File], ...]
    """(train or validation, file), of those that are there: where the recipe is refused they need not be."""
    prepared: dict[str, Arrays]
    """Arrays that a job made of the same rows."""
    refused: InvalidRequest | None
    """What creating the job would say."""

    @property
    def base(self) -> BaseModelRow:
        return self.origin.base


def resolve_query(context: Context, caller: Caller, recipe: Recipe) -> PreviewQuery:
    """Raises InvalidRequest for what is not there, in the words of creating a job; and in its order, so that a recipe
    can be checked before there are files: it is refused, or the missing file is all that is wrong."""
    refused: InvalidRequest | None = None
    with context.database.read() as session:
        origin = lineage.find(session, caller.project_id, recipe.model)
    try:
        recipe = lineage.inherit_technique(recipe, origin)
        layers.require(recipe, origin)
    except InvalidRequest as error:
        refused = error
    with context.database.read() as session:
        try:
            validate(context, session, caller, recipe, origin)
        except InvalidRequest as error:
            refused = refused or error
        if refused is not None and refused.code == "file_not_found":
            raise refused
        named = [("train", files.get(session, caller.project_id, recipe.training_file))]
        if recipe.validation_file is not None:
            named.append(("validation", files.get(session, caller.project_id, recipe.validation_file)))
        there = tuple((name, file) for name, file in named if file is not None and file.storage_key is not None)
        prepared = {}
        for index, (name, _) in enumerate(there):
            hashes = [file.sha256 for _, file in there[: index + 1]]
            key = arrays.key_of(caller.project_id, hashes, recipe, origin.base, origin.labels)
            found = arrays.get(session, key)
            if found is not None:
                prepared[name] = found
    return PreviewQuery(recipe, origin, there, prepared, refused)


def preview(context: Context, caller: Caller, recipe: Recipe, rows: int) -> dict[str, Any]:
    """The first rows of the training file as the model will see them. Raises RowsRefused, and what `asked` raises."""
    question = resolve_query(context, caller, recipe)
    if not question.files:
        raise InvalidRequest(
            f"No such File object: {recipe.training_file}", param="training_file", code="file_not_found"
        )
    return run_preview(context, question, "rows", names=["train"], rows=rows)


def run_preview(
    context: Context, question: PreviewQuery, want: Literal["rows", "counts"], *, names: Sequence[str], rows: int = 0
) -> dict[str, Any]:
    """The child's report on these files. Raises RowsRefused, TooBusy, PreviewFailed."""
    wanted = [(name, file) for name, file in question.files if name in names]
    prepared = question.prepared if want == "counts" else {}
    request = asked_of_child(question, want, rows)
    request["files"] = [_entry(context, name, file, prepared.get(name)) for name, file in wanted]

    def fill(folder: Path) -> None:
        for artifact in question.base.artifacts:
            if not artifact["name"].endswith(".safetensors"):
                path = folder / "base" / artifact["name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                context.storage.read_file(artifact["key"], path, sha256=artifact["sha256"])
        for name, file in wanted:
            _fetch(context, file, prepared.get(name), folder / name)

    try:
        report = context.previews.ask(_key(question, request, wanted), request, fill)
    except ObjectMissing:
        raise InvalidRequest("A file of this request was deleted meanwhile", code="file_not_found") from None
    if report["error"] is not None:
        error = report["error"]
        # In a preparation's words, but for their beginning: there is no job that could have failed.
        message = error["message"].removeprefix(FAILURES[FailureReason.INVALID_FILE].sentence).strip()
        raise RowsRefused(message, code=error["code"], param=error["param"])
    return report


def asked_of_child(question: PreviewQuery, want: str, rows: int) -> dict[str, Any]:
    recipe, facts = question.recipe, question.base.facts
    training = recipe.training
    return {
        "want": want,
        "method": recipe.method.model_dump(mode="json"),
        "format": None if training.format == AUTO else training.format,
        "reasoning": training.reasoning,
        "context_window": max_row_tokens(recipe.method, recipe.technique, facts["context_window"]),
        "max_length": None if training.max_length == AUTO else training.max_length,
        "overlong": recipe.overlong,
        "rows": rows,
    }


def _entry(context: Context, name: str, file: File, prepared: Arrays | None) -> dict[str, Any]:
    param = "training_file" if name == "train" else "validation_file"
    named = {"name": name, "path": name, "file_id": file.id, "param": param}
    return {
        "file": named | {"min_rows": MIN_EXAMPLES if name == "train" else 1},
        "arrays_of_rows": None if prepared is None else prepared.report["rows"],
        "rows": (file.scan or {}).get("rows") if file.scan_status == "done" else None,
        "share": min(1.0, context.settings.preview_file_bytes / max(1, file.bytes)),
    }


def _fetch(context: Context, file: File, prepared: Arrays | None, path: Path) -> None:
    """Arrays, or a file: whole where it is short, or Parquet; else its beginning."""
    if prepared is not None:
        context.storage.read_file(prepared.storage_key, path, sha256=prepared.sha256)
        return
    assert file.storage_key is not None, file.id
    left, parquet = context.settings.preview_file_bytes, False
    with path.open("wb") as target:
        for number, chunk in enumerate(context.storage.read(file.storage_key)):
            parquet = parquet or (number == 0 and chunk.startswith(PARQUET))
            target.write(chunk if parquet else chunk[:left])
            left -= len(chunk)
            if left <= 0 and not parquet:
                break


def _key(question: PreviewQuery, request: dict[str, Any], wanted: Sequence[tuple[str, File]]) -> str:
    """Of everything that decides the report: nothing of a project but its files' contents."""
    files_read = [[name, file.sha256] for name, file in wanted]
    parts = [arrays.CODE_VERSION, request, files_read, arrays.tokenizer_of(question.base)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
