"""The sandbox of users' scripts: Monty, a Python interpreter without files, network, processes or CPython's objects.

Scripts run in separate processes of Monty's, with limits. If such a process dies, only the script has failed. Every run
starts without anything from earlier runs, random numbers have a fixed seed, and sleeping takes no time, so the same
answer always gets the same grade.

Monty takes 0.15 s to import. It is imported inside the functions, so that the API, which runs no scripts, does not
spend this time.
"""

import ast
import builtins
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from api.spec.formats.base import truncate
from api.spec.graders.base import GradingError

if TYPE_CHECKING:
    from pydantic_monty import Monty, MontyError, MontySession

SECONDS = 2.0
"""Time limit, in seconds, for each of: loading a script, one call of its function, and all of its calls of lent
functions (api.spec.graders.lent)."""
MEMORY_BYTES = 128 << 20
LENT_CALLS = 1000
"""Maximum number of calls of lent functions in one run."""
HUNG_S = 10.0
"""Seconds after which a process that exceeds its limits without stopping is killed."""
MAX_MESSAGE = 300
"""Maximum length of an error message, in characters."""

_SCRIPT = "<python-input-1>"
"""Monty's file name for the second text that a session runs, which is the script."""
_LACKING = {"unresolved-import", "unresolved-reference", "unresolved-attribute"}
"""Codes with which the type checker reports a module, name or attribute that the sandbox lacks."""
_NAME = re.compile("Name `([a-z]+)`", re.IGNORECASE)
"""A name in the type checker's messages that may be one of Python's own. The type checker knows fewer of those than the
interpreter: `map` and `getattr` are missing."""
_TYPES = {"str", "bytes", "int", "float", "list", "tuple", "dict", "set", "frozenset"}
"""Built-in types. The type checker knows more attributes of them than the interpreter, which has methods of objects
(`text.lower()`), but not of the types (`str.lower`)."""


def call_grade(source: str, sample: Mapping[str, object], item: Mapping[str, object]) -> float:
    """Return the number that the script's `grade(sample, item)` returns. Raises GradingError if the script fails or
    returns no finite number."""
    with _errors_of_script(), _session() as session:
        number = session.feed_run("float")  # read before the script, which may define a float of its own
        session.feed_run(source, print_callback=_discard)
        inputs = {"number": number, "sample": dict(sample), "item": dict(item)}
        reward = float(session.feed_run("number(grade(sample, item))", inputs=inputs, print_callback=_discard))
    if not math.isfinite(reward):
        message = f"grade(sample, item) returned {reward}, which is not a finite number"
        raise GradingError("python_grader_runtime_error", message)
    return reward


def faults(source: str) -> list[str]:
    """Return the modules and names that the script uses but the sandbox lacks, or why the script cannot be loaded, each
    with the line."""
    if lacking := [*_lacking(source), *_lacking_methods(source)]:
        return lacking
    try:
        with _errors_of_script(), _session() as session:
            session.feed_run("float")
            session.feed_run(source, print_callback=_discard)
    except GradingError as error:
        return [error.message]
    return []


def _lacking(source: str) -> list[str]:
    """Return a sentence for each module, name or attribute that the script uses and the sandbox lacks, and for a
    missing `grade`, as Monty's type checker finds them. Its other findings are ignored: scripts need no types."""
    from pydantic_monty import MontyError, MontyTypingError  # noqa: PLC0415

    call = "\n\ngrade({}, {})\n"
    try:
        with _session(type_check=True) as session:
            session.feed_run(source + call, print_callback=_discard)
    except MontyTypingError as error:
        findings = json.loads(error.display())
    except MontyError:
        return []  # `faults` finds this error when it loads the script alone
    else:
        return []
    last = source.count("\n") + call.count("\n")
    return [text for finding in findings if (text := _sentence(finding, is_call=finding["location"]["row"] == last))]


def _sentence(finding: Mapping[str, Any], *, is_call: bool) -> str | None:
    code, message = finding["code"], finding["message"]
    if is_call:
        signatures = {"unresolved-reference", "missing-argument", "too-many-positional-arguments", "call-non-callable"}
        return "the script has to define a function grade(sample, item)" if code in signatures else None
    if code not in _LACKING or "`__future__`" in message:
        return None
    if code == "unresolved-attribute" and not message.startswith(("Module `", "Class `")):
        return None
    if code == "unresolved-reference" and (name := _NAME.match(message)) and _has(name[1]):
        return None
    return f"line {finding['location']['row']}: not available in the sandbox: {truncate(message, MAX_MESSAGE)}"


def _lacking_methods(source: str) -> list[str]:
    """Return a sentence for each method that the script takes from a built-in type, such as `str.lower`, and the
    sandbox lacks."""
    try:
        nodes = [*ast.walk(ast.parse(source))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # `faults` finds this error when it loads the script
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return [
        f"line {node.lineno}: not available in the sandbox: `{node.value.id}.{node.attr}`"
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _TYPES - own
        if not _has(f"{node.value.id}.{node.attr}")
    ]


def _has(name: str) -> bool:
    """Return whether the sandbox has a name of Python's own, or an attribute (`str.lower`) of one."""
    first, _, attribute = name.partition(".")
    known = getattr(builtins, first, None)
    return known is not None and (not attribute or hasattr(known, attribute)) and _evaluates(name)


@cache  # of names of Python's own only, so it stays small
def _evaluates(name: str) -> bool:
    from pydantic_monty import MontyError  # noqa: PLC0415

    try:
        with _session() as session:
            session.feed_run(name)
    except MontyError:
        return False
    return True


@cache
def _pool() -> "Monty":
    """Return this process's pool of interpreters, which end when this process ends."""
    from pydantic_monty import Monty  # noqa: PLC0415

    return Monty(request_timeout=HUNG_S, feed_duration_limit_grace=0.5).__enter__()


def _session(*, type_check: bool = False) -> "MontySession":
    from api.spec.graders.lent import Lender  # noqa: PLC0415

    return _pool().checkout(
        limits={"max_feed_duration_secs": SECONDS, "max_memory": MEMORY_BYTES, "max_suspensions": LENT_CALLS},
        os_policy={"sleep": "zero", "random_start": {"seed": 0}},
        external_modules=Lender(SECONDS).modules(),
        type_check=type_check,
        type_check_format="json" if type_check else None,
    )


def _discard(stream: str, text: str) -> None:
    """Drop what a script prints."""


@contextmanager
def _errors_of_script() -> Iterator[None]:
    """Raise a GradingError in place of Monty's errors."""
    from pydantic_monty import MontyCrashedError, MontyError  # noqa: PLC0415

    try:
        yield
    except MontyCrashedError as error:
        message = "the script took too long" if error.timed_out else "the script ended its interpreter"
        raise GradingError("python_grader_server_error", message) from None
    except MontyError as error:
        raise GradingError("python_grader_runtime_error", _described(error)) from None


def _described(error: "MontyError") -> str:
    """Return the error with the script's line. Equal faults get equal texts, because jobs report each text once."""
    from pydantic_monty import MontyRuntimeError, MontySyntaxError  # noqa: PLC0415

    if not isinstance(error, MontyRuntimeError | MontySyntaxError):
        return truncate(str(error), MAX_MESSAGE)
    text = error.display("type-msg")
    lines = [frame.line for frame in error.traceback() if frame.filename == _SCRIPT]
    if text.startswith("TimeoutError: feed time limit"):
        text = f"TimeoutError: the script took longer than {SECONDS:g} s"
    elif text.startswith("MemoryError: memory limit"):
        text = f"MemoryError: the script took more than {MEMORY_BYTES >> 20} MB"
    text = text.replace(
        "float() argument must be a string or a real number", "grade(sample, item) must return a number"
    )
    return f"line {lines[-1]}: {truncate(text, MAX_MESSAGE)}" if lines else truncate(text, MAX_MESSAGE)
