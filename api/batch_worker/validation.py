"""The validation of a batch: each line of its input file becomes an item, or the batch fails with errors by line."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

from pydantic import ValidationError

from api.background.lines import LineTooLong, numbered_lines
from api.context import Caller, Context
from api.infra.storage import ObjectMissing
from api.records import batch_items, batches, files, projects
from api.records.base import current_time
from api.records.batch_items import QUEUE, NewItem
from api.records.batches import Batch
from api.records.item_queue import WorkClaim
from api.services import sampling
from api.services.models import NoSuchModel
from api.services.sampling import CannotAnswer
from api.spec.batch import BatchLine, BatchStatus

CHUNK = 1000
"""Number of items that one transaction inserts."""
MAX_ERRORS = 100
"""Number of errors after which the rest of the file is not read."""
MAX_PARAM = 64
"""Maximum length of the name of a wrong field in an error, in characters. A line may have a key of a megabyte."""


@dataclass(frozen=True)
class LineError:
    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Invalid(Exception):
    """The input file has errors, so the batch fails."""

    def __init__(self, *errors: LineError) -> None:
        super().__init__(errors)
        self.errors = errors


@dataclass
class InputReader:
    """Reads the items of an input file, in chunks of CHUNK."""

    endpoint: str
    max_line_bytes: int
    max_lines: int
    models: dict[str | None, int] = field(default_factory=dict)
    """{model: the first line that names it}. None stands for requests that name no model."""
    count: int = 0
    _errors: list[LineError] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def items(self, chunks: Iterable[bytes]) -> Iterator[list[NewItem]]:
        """Yield the items in chunks. If lines have errors, raise Invalid with all errors at the end of the file, or as
        soon as there are MAX_ERRORS."""
        found: list[NewItem] = []
        for number, start, content in self._lines(chunks):
            self.count += 1
            if self.count > self.max_lines:
                message = f"The file has more than {self.max_lines} requests, the most of one batch: use several files"
                raise Invalid(*self._errors, LineError("too_many_requests", message, line=number))
            if (item := self._item(number, start, content)) is not None:
                found.append(item)
            if len(self._errors) >= MAX_ERRORS:
                break
            if len(found) == CHUNK:
                yield found
                found = []
        if self._errors:
            raise Invalid(*self._errors[:MAX_ERRORS])
        if not self.count:
            raise Invalid(LineError("empty_file", "The input file has no requests"))
        if found:
            yield found

    def _lines(self, chunks: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
        try:
            yield from numbered_lines(chunks, self.max_line_bytes)
        except LineTooLong as error:
            raise Invalid(*self._errors, LineError("request_too_large", error.message, line=error.number)) from None

    def _item(self, number: int, start: int, content: bytes) -> NewItem | None:
        try:
            line = BatchLine.model_validate_json(content)
        except ValidationError as error:
            self._errors.append(_as_line_error(error, number))
            return None
        if line.url != self.endpoint:
            message = f"url: {line.url} is not the batch's endpoint, {self.endpoint}"
            self._errors.append(LineError("mismatched_url", message, "url", number))
        if line.custom_id in self._names:
            message = f"custom_id: '{line.custom_id[:64]}' is also used by an earlier line: each must be unique"
            self._errors.append(LineError("duplicate_custom_id", message, "custom_id", number))
        self._names.add(line.custom_id)
        model = line.body.get("model")
        if not isinstance(model, str):
            model = None
        elif "\0" in model:
            message = "body.model: the text holds a NUL character (\\u0000), which cannot be stored"
            self._errors.append(LineError("invalid_value", message, "body.model", number))
        self.models.setdefault(model and model[:256], number)
        return NewItem(number, line.custom_id, start, len(content))


def _as_line_error(error: ValidationError, number: int) -> LineError:
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"])[:MAX_PARAM] or None
    if first["type"] in ("json_invalid", "model_type"):
        return LineError("invalid_json_line", "This line is not a JSON object", None, number)
    if first["type"] == "missing":
        return LineError("missing_required_parameter", f"{param}: Field required", param, number)
    problem = "Unknown field" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return LineError("invalid_value", f"{param}: {problem}", param, number)


def validate(context: Context, claim: WorkClaim[Batch]) -> None:
    """Insert the items of the batch and set the batch in progress, or end the batch. Raise StaleWork if the claim is
    lost.

    An earlier validation that was cut off may have inserted some items: they are removed, and all are inserted again.
    """
    if claim.work.expires_at <= claim.at:
        _end(context, claim, BatchStatus.EXPIRED)
        return
    settings = context.settings
    reader = InputReader(claim.work.endpoint, settings.max_body_bytes, settings.max_batch_requests)
    try:
        with context.database.write() as session:
            QUEUE.renew(session, claim, settings.lease_s)
            QUEUE.remove_items(session, claim.work.id)
            file = files.get_for_job(session, claim.work.project_id, claim.work.input_file)
        if file is None or file.storage_key is None:
            raise ObjectMissing(claim.work.input_file)
        for items in reader.items(context.storage.read(file.storage_key)):
            with context.database.write() as session:
                QUEUE.renew(session, claim, settings.lease_s)
                batch_items.add(session, claim.work.id, items)
        _require_a_model(context, claim, reader)
        _begin(context, claim, reader)
    except Invalid as invalid:
        _end(context, claim, BatchStatus.FAILED, *invalid.errors)
    except ObjectMissing:
        _end(context, claim, BatchStatus.FAILED, LineError("file_not_found", "The input file was deleted"))


def _require_a_model(context: Context, claim: WorkClaim[Batch], reader: InputReader) -> None:
    """Raise Invalid if no model of the batch can answer. If only some cannot, or some requests name no model, these
    requests have errors of their own.

    A file with more than MAX_ERRORS models is not checked, because each check reads the database.
    """
    if len(reader.models) > MAX_ERRORS:
        return
    caller, errors = Caller(claim.work.project_id, claim.work.key_id, "write"), []
    for model, line in reader.models.items():
        if model is None:
            return
        try:
            sampling.require_model(context, caller, model)
        except (NoSuchModel, CannotAnswer) as error:
            errors.append(LineError(error.code, error.message, "body.model", line))
        else:
            return
    raise Invalid(*errors)


def _begin(context: Context, claim: WorkClaim[Batch], reader: InputReader) -> None:
    limit = context.settings.max_project_batch_requests
    with context.database.write() as session:
        projects.lock(session, claim.work.project_id)  # two batches at once could exceed the limit together
        batch = QUEUE.lock_claimed(session, claim)
        _, requests = batches.active(session, batch.project_id)
        if requests + reader.count > limit:
            message = (
                f"The project's unfinished batches have {requests} requests, and this server allows {limit}: there is "
                f"no room for {reader.count} more. Wait for a batch to end, or cancel one"
            )
            raise Invalid(LineError("request_limit_exceeded", message))
        batch.total = reader.count
        batch.model = next(iter(reader.models)) if len(reader.models) == 1 else None
        session.flush()
        batches.transition(session, batch, BatchStatus.IN_PROGRESS, due_at=batch.expires_at)


def _end(context: Context, claim: WorkClaim[Batch], status: BatchStatus, *errors: LineError) -> None:
    with context.database.write() as session:
        batch = QUEUE.lock_claimed(session, claim)
        QUEUE.remove_items(session, batch.id)
        batch.errors = {"data": [asdict(error) for error in errors]} if errors else None
        session.flush()
        batches.transition(session, batch, status)


def expire(context: Context, claim: WorkClaim[Batch]) -> None:
    """End a batch whose completion window is over: no further request is answered, and its files are due to be
    written."""
    with context.database.write() as session:
        batch = QUEUE.lock_claimed(session, claim)
        batches.transition(session, batch, BatchStatus.FINALIZING, due_at=current_time(session))
