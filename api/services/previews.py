"""Rows as a job would read them. A preview shows them, an estimate counts them.

A child process reads the rows (api.infra.preview_process). This module writes the child's request and fetches the files
that the child reads.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.infra.storage import ObjectCorrupt, ObjectMissing
from api.records import arrays, files
from api.records.arrays import Arrays
from api.records.base_models import BaseModelRow
from api.records.files import File
from api.services import graders, layers, lineage
from api.services.admission import validate
from api.services.lineage import Origin
from api.spec.fields import AUTO
from api.spec.lifecycle import FAILURES, FailureReason
from api.spec.preview_report import PreviewReport
from api.spec.recipe import MIN_EXAMPLES, Recipe
from api.spec.resolve import max_row_tokens

PARQUET = b"PAR1"
"""The first bytes of a Parquet file. The index of such a file is at its end, so the file can only be read whole."""


class RowsRefused(InvalidRequest):
    """The preparation of a job would refuse the rows."""


class ParquetTooLarge(InvalidRequest):
    code = "rows_too_large"

    def __init__(self, size: int, limit: int, param: str) -> None:
        super().__init__(
            f"A Parquet file can only be read whole, and this one has {size} bytes. Previews and estimates read at "
            f"most {limit} bytes of a file: create the job, or send the rows as JSON lines",
            param=param,
        )


class NoParquetReader(InvalidRequest):
    """Parquet needs pyarrow, one of the libraries of workers, which the API runs without."""

    code = "no_parquet_reader"

    def __init__(self, param: str) -> None:
        super().__init__(
            "Previews and estimates of Parquet files need pyarrow, which is not installed with this API. Create the "
            "job, whose worker reads the file, or send the rows as JSON lines",
            param=param,
        )


@dataclass(frozen=True)
class PreviewQuery:
    """A recipe, with the database's records of the model and the files that it names."""

    recipe: Recipe
    origin: Origin
    files: tuple[tuple[str, File], ...]
    """("train" or "validation", file) for each named file that exists. Files may be missing if the recipe is
    refused."""
    prepared: dict[str, Arrays]
    """{"train" or "validation": the arrays that an earlier job prepared from the same rows}, unless they are larger
    than `preview_file_bytes`."""
    refused: InvalidRequest | None
    """The error that creating the job would raise; None if the job would be accepted."""

    @property
    def base(self) -> BaseModelRow:
        return self.origin.base


def resolve_query(context: Context, caller: Caller, recipe: Recipe) -> PreviewQuery:
    """Look up the models and files that the recipe names, and validate the recipe as creating a job would.

    Raise InvalidRequest for a missing model. A missing file raises it only if nothing else is wrong, so that clients
    can check a recipe before they upload its files.
    """
    refused: InvalidRequest | None = None
    with context.database.read() as session:
        origin = lineage.find(session, caller.project_id, recipe.model)
    try:
        recipe = lineage.inherit_technique(recipe, origin)
        layers.require(recipe, origin)
        graders.require_scripts_of(context, recipe)
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
        existing = tuple((name, file) for name, file in named if file is not None and file.storage_key is not None)
        prepared = {}
        for index, (name, _) in enumerate(existing):
            hashes = [file.sha256 for _, file in existing[: index + 1]]
            key = arrays.content_key(caller.project_id, hashes, recipe, origin.base, origin.labels)
            found = arrays.get(session, key)
            if found is not None and found.bytes <= context.settings.preview_file_bytes:
                prepared[name] = found
    return PreviewQuery(recipe, origin, existing, prepared, refused)


def preview(context: Context, caller: Caller, recipe: Recipe, rows: int) -> PreviewReport:
    """Return a report with the first rows of the training file, as the model will see them.

    Raise the errors of `resolve_query` and `run_preview`.
    """
    query = resolve_query(context, caller, recipe)
    if not query.files:
        raise InvalidRequest(
            f"No such File object: {recipe.training_file}", param="training_file", code="file_not_found"
        )
    return run_preview(context, query, "rows", names=["train"], rows=rows)


def run_preview(
    context: Context, query: PreviewQuery, output: Literal["rows", "counts"], *, names: Sequence[str], rows: int = 0
) -> PreviewReport:
    """Return the child's report on the files with these names. `output`: "rows" for a preview, "counts" for an
    estimate.

    Raise RowsRefused if a job's preparation would refuse the rows, NoParquetReader, ParquetTooLarge, InvalidRequest if
    a file was deleted meanwhile, and PreviewFailed.
    """
    requested = [(name, file) for name, file in query.files if name in names]
    prepared = query.prepared if output == "counts" else {}
    request = child_request(query, output, rows)
    request["files"] = [_entry(context, name, file, prepared.get(name)) for name, file in requested]

    def fill(folder: Path) -> None:
        for artifact in query.base.files_without_weights:
            path = folder / "base" / artifact["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            context.storage.read_file(artifact["key"], path, sha256=artifact["sha256"])
        for name, file in requested:
            _fetch(context, file, prepared.get(name), folder / name, _param(name))

    try:
        report = context.previews.preview(_key(query, request, requested), request, fill)
    except (ObjectMissing, ObjectCorrupt) as lost:
        if prepared:  # the rows can be read from the files, as a job would then do
            return run_preview(context, replace(query, prepared={}), output, names=names, rows=rows)
        if isinstance(lost, ObjectMissing):
            message = "A file of this request was deleted during the preview"
            raise InvalidRequest(message, code="file_not_found") from None
        raise
    if (error := report["error"]) is not None:
        # The preparation's message without its first sentence, which is about a failed job.
        message = error["message"].removeprefix(FAILURES[FailureReason.INVALID_FILE].sentence).strip()
        raise RowsRefused(message, code=error["code"], param=error["param"])
    return report


def child_request(query: PreviewQuery, output: str, rows: int) -> dict[str, object]:
    recipe, facts = query.recipe, query.base.facts
    training = recipe.training
    return {
        "want": output,
        "method": recipe.method.model_dump(mode="json"),
        "format": None if training.format == AUTO else training.format,
        "reasoning": training.reasoning,
        "context_window": max_row_tokens(recipe.method, recipe.technique, facts["context_window"]),
        "max_length": None if training.max_length == AUTO else training.max_length,
        "overlong": recipe.overlong,
        "rows": rows,
    }


def _entry(context: Context, name: str, file: File, prepared: Arrays | None) -> dict[str, object]:
    named = {"name": name, "path": name, "file_id": file.id, "param": _param(name)}
    return {
        "file": named | {"min_rows": MIN_EXAMPLES if name == "train" else 1},
        "arrays_of_rows": None if prepared is None else prepared.report["rows"],
        "rows": file.scan_report.get("rows") if file.scan_status == "done" else None,
        "share": min(1.0, context.settings.preview_file_bytes / max(1, file.bytes)),
    }


def _param(name: str) -> str:
    return "training_file" if name == "train" else "validation_file"


def _fetch(context: Context, file: File, prepared: Arrays | None, path: Path, param: str) -> None:
    """Fetch the prepared arrays if there are any, else the first `preview_file_bytes` of the file. Raise what
    `_require_readable` raises."""
    if prepared is not None:
        context.storage.read_file(prepared.storage_key, path, sha256=prepared.sha256)
        return
    assert file.storage_key is not None, file.id
    left = limit = context.settings.preview_file_bytes
    with path.open("wb") as target:
        for number, chunk in enumerate(context.storage.read(file.storage_key)):
            if number == 0 and chunk.startswith(PARQUET):
                _require_readable(file, limit, param)
            target.write(chunk[:left])
            left -= len(chunk)
            if left <= 0:
                break


def _require_readable(parquet: File, limit: int, param: str) -> None:
    """Raise NoParquetReader if no library reads the Parquet file here, ParquetTooLarge if it exceeds the limit."""
    if find_spec("pyarrow") is None:
        raise NoParquetReader(param)
    if parquet.bytes > limit:
        raise ParquetTooLarge(parquet.bytes, limit, param)


def _key(query: PreviewQuery, request: dict[str, object], requested: Sequence[tuple[str, File]]) -> str:
    """Return a cache key: a hash of everything that determines the report.

    The key depends on the contents of the files, not on the project.
    """
    files_read = [[name, file.sha256] for name, file in requested]
    parts = [arrays.CODE_VERSION, request, files_read, arrays.tokenizer_files(query.base)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
