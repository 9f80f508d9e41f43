"""The errors that end a job's preparation, in OpenAI's wording if that is known."""

from typing import Literal

import msgspec
from pydantic import TypeAdapter

from api.spec.catalog import METHODS
from api.spec.formats import FORMATS, Row
from api.spec.formats.base import keys_of, truncate
from api.spec.lifecycle import FailureReason
from api.spec.methods import Method


class FileRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A file of rows in a request."""

    name: str
    """"train" or "validation"."""
    path: str
    """Path of the file, relative to the run folder."""
    file_id: str
    """The id that the user knows."""
    param: str
    """The recipe's field that named the file."""
    min_rows: int
    """Smallest number of rows that the method accepts."""

    @property
    def kind(self) -> Literal["training", "validation"]:
        return "validation" if self.param == "validation_file" else "training"


class JobRejected(Exception):
    """The job fails because of the user's input; the message is for the user."""

    def __init__(
        self, message: str, *, code: str, param: str | None, reason: FailureReason = FailureReason.INVALID_FILE
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.reason = message, code, param, reason

    def body(self) -> dict[str, str | None]:
        return {"code": self.code, "message": self.message, "param": self.param, "reason": self.reason.value}


def invalid_file(file: FileRequest, message: str) -> JobRejected:
    """Return the error of an invalid file, with OpenAI's wording and codes."""
    return JobRejected(
        f"The job failed due to an invalid {file.kind} file. {message}",
        code=f"invalid_{file.kind}_file",
        param=file.param,
    )


def wrong_format(file: FileRequest, name: str, method: Method) -> JobRejected:
    """Return the error of a file in a format that this method does not accept, but other methods do."""
    methods = " or ".join(f"'{method_name}'" for method_name, entry in METHODS.items() if name in entry.formats)
    return invalid_file(
        file,
        f"Input file {file.file_id} is in the {FORMATS[name].title} format, but the specified fine-tuning job is not "
        f"using {methods} as the training method (provided method={method.type}). {_accepted_formats(method)}",
    )


def validate_method(raw: dict[str, object], forced_format: str | None) -> Method:
    """Return the method. Raises JobRejected if the method does not accept the format that the recipe forces."""
    method = TypeAdapter[Method](Method).validate_python(raw)
    if forced_format is None or forced_format in method.formats:
        return method
    raise JobRejected(
        f"`training.format` is '{truncate(forced_format)}', which method {method.type} does not accept. "
        + _accepted_formats(method),
        code="invalid_recipe",
        param="training.format",
        reason=FailureReason.INVALID_RECIPE,
    )


def unexpected_format(file: FileRequest, method: Method, row: Row) -> JobRejected:
    """Return the error of a file whose first row matches no format."""
    message = f"Unexpected file format. {_accepted_formats(method)}"
    if {"chat", "completion"} <= method.formats:
        message = "Unexpected file format, expected either prompt/completion pairs or chat messages."
    return invalid_file(file, f"{message} {keys_of(row)}")


def too_few(file: FileRequest, rows: int) -> JobRejected:
    """Return the error of a file with fewer rows than the method needs."""
    return JobRejected(
        f"{file.kind.capitalize()} file has {rows} example(s), but must have at least {file.min_rows} examples",
        code="invalid_n_examples",
        param=file.param,
    )


def _accepted_formats(method: Method) -> str:
    """Return a sentence that names the formats a method accepts, each with its required keys."""
    described = [
        f"{name} ({' or '.join(', '.join(sorted(keys)) for keys in FORMATS[name].required)})"
        for name in sorted(method.formats)
    ]
    return f"Method {method.type} accepts rows of the format {'; or '.join(described)}."
