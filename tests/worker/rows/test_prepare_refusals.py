"""prepare on what it cannot use: OpenAI's words where they are known, and a line number wherever there is a line."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.worker import bases
from tests.worker.prepared import jsonl, prepare

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
HOSTILE = {
    "nested": (b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    "long integer": (b'{"messages": ' + b"1" * 5000 + b"}", "number_out_of_range"),
    "infinite number": (b'{"messages": 1e999}', "number_out_of_range"),
    "NaN": (b'{"messages": [NaN]}', "invalid_json"),
    "Infinity": (b'{"messages": -Infinity}', "invalid_json"),
    "lone surrogate": (rb'{"text": "\ud800"}', "surrogate"),
    "lone low surrogate": (rb'{"text": "x\udc00y"}', "surrogate"),
    "NUL": (rb'{"text": "a\u0000"}', "nul_character"),
    "raw NUL": (b'{"text": "a\0"}', "invalid_json"),
    "duplicate key": (b'{"text": "a", "text": "b"}', "duplicate_key"),
    "not UTF-8": (b'{"text": "\xff\xfe"}', "invalid_utf8"),
    "cut short": (b'{"messages": [', "invalid_json"),
    "two objects": (b'{"text": "a"} {"text": "b"}', "invalid_json"),
    "a number": (b"42", "not_an_object"),
    "another format": (b'{"prompt": "a", "completion": "b"}', "mixed_formats"),
    "long line": (b'{"text": "' + b"x" * 3_000_000 + b'"}', "line_too_long"),
}


def test_every_hostile_line_is_one_finding_with_its_number(tmp_path: Path, base: Path) -> None:
    lines = [line for line, _ in HOSTILE.values()]
    last = {"messages": [*GOOD["messages"], *GOOD["messages"]]}
    outcome = prepare(tmp_path / "run", base, jsonl(GOOD) + b"\n".join(lines) + b"\n" + jsonl(last))
    found = [(finding["line"], finding["severity"], finding["code"]) for finding in outcome.findings]
    assert found == [(line, "error", code) for line, (_, code) in enumerate(HOSTILE.values(), start=2)]
    assert not outcome.report["ok"]
    assert outcome.report["files"][0]["rows"] == len(lines) + 2
    assert not list((outcome.folder / "data").iterdir())


def test_missing_role_is_told_in_openais_words(tmp_path: Path, base: Path) -> None:
    bad = {"messages": [GOOD["messages"][0], {"content": "Hello"}]}
    outcome = prepare(tmp_path / "run", base, jsonl(*[GOOD] * 99, bad))
    assert outcome.report["error"] == {
        "code": "invalid_training_file",
        "message": "The job failed due to an invalid training file. Invalid file format. "
        "Example 100, message 2 Discriminator 'role' is missing in value",
        "param": "training_file",
        "reason": "invalid_file",
    }


def test_the_error_names_the_lines_of_further_errors(tmp_path: Path, base: Path) -> None:
    bad = {"messages": [{"content": "Hello"}]}
    outcome = prepare(tmp_path / "run", base, jsonl(bad, GOOD, GOOD, bad, bad))
    first = "Invalid file format. Example 1, message 1 Discriminator 'role' is missing in value"
    assert outcome.message.endswith(f"{first} … and 2 more: lines 4, 5")
    outcome = prepare(tmp_path / "more", base, jsonl(*[bad] * 150))
    assert outcome.message.endswith(" … and 149 more: lines 2, 3, 4, 5, 6, …")
    assert len(outcome.findings) == 100
    assert outcome.report["files"][0]["finding_counts"]["missing_role"] == 150


def test_too_few_rows_are_told_in_openais_words(tmp_path: Path, base: Path) -> None:
    outcome = prepare(tmp_path / "run", base, jsonl(*[GOOD] * 7), min_rows=10)
    assert (outcome.code, outcome.message) == (
        "invalid_n_examples",
        "Training file has 7 example(s), but must have at least 10 examples",
    )


@pytest.mark.parametrize(("content", "rows"), [(b"", 0), (b"\n\n", 0)])
def test_empty_validation_file_is_refused(tmp_path: Path, base: Path, content: bytes, rows: int) -> None:
    outcome = prepare(tmp_path / "run", base, jsonl(GOOD), content)
    assert outcome.message == f"Validation file has {rows} example(s), but must have at least 1 examples"
    assert outcome.report["error"]["param"] == "validation_file"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"question": "a"}', "Unexpected file format, expected either prompt/completion pairs or chat messages."),
    ],
)
def test_file_of_something_else_is_refused_at_once(tmp_path: Path, base: Path, content: bytes, expected: str) -> None:
    outcome = prepare(tmp_path / "run", base, content)
    assert expected in outcome.message
    assert outcome.code == "invalid_training_file"


def test_a_hundred_findings_are_listed_and_all_are_counted(tmp_path: Path, base: Path) -> None:
    outcome = prepare(tmp_path / "run", base, b"{}x\n" * 250)
    assert len(outcome.findings) == 100
    assert outcome.report["files"][0]["finding_counts"] == {"invalid_json": 250}


def test_warnings_do_not_crowd_out_the_error(tmp_path: Path, base: Path) -> None:
    outcome = prepare(tmp_path / "run", base, jsonl(*[{**GOOD, "id": 1}] * 200, {"messages": []}))
    assert outcome.findings[-1]["line"] == 201
    assert len(outcome.findings) == 100


def test_base_without_chat_template_refuses_chat_and_takes_text(tmp_path: Path) -> None:
    base = bases.base(tmp_path / "base", template=None)
    chat = prepare(tmp_path / "chat", base, jsonl(GOOD))
    assert (chat.code, chat.report["error"]["param"]) == ("no_chat_template", "model")
    assert prepare(tmp_path / "text", base, jsonl({"text": "a"})).report["ok"]


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='a' * 1000) %}{% for a in range(99999) %}{{ ns.x }}{% endfor %}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'a' * 9999999999 }}",
        "{{ ''.__class__.__mro__ }}{% endfor %}",
        "{{ messages[0].__class__.__init__.__globals__ }}{{ raise_exception('x') }}",
    ],
)
def test_malicious_template_ends_in_a_clear_error(tmp_path: Path, template: str) -> None:
    base, started = bases.base(tmp_path / "base", template=template), time.monotonic()
    outcome = prepare(tmp_path / "run", base, jsonl(GOOD), memory_bytes=1 << 30, cpu_seconds=60)
    assert not outcome.report["ok"]
    assert outcome.code in {"unusable_chat_template", "invalid_training_file", "out_of_memory"}
    assert time.monotonic() - started < 30


def test_running_out_of_time_or_memory_is_reported(tmp_path: Path, base: Path) -> None:
    rows = jsonl(*[{"text": "word " * 2000}] * 3000)
    slow = prepare(tmp_path / "slow", base, rows, cpu_seconds=2)
    assert slow.code == "file_too_slow"
    hungry = prepare(tmp_path / "hungry", base, rows, memory_bytes=150_000_000)
    assert hungry.code == "out_of_memory"
    large = prepare(tmp_path / "large", base, rows, file_bytes=100_000)
    assert large.code == "file_too_large"


@pytest.mark.parametrize("text", ["x" * 900_000, " " * 900_000, "😀" * 80_000, "\n" * 400_000])
def test_one_enormous_word_is_no_trouble(tmp_path: Path, base: Path, text: str) -> None:
    rows: list[dict[str, Any]] = [{"text": text}]
    assert prepare(tmp_path / "run", base, jsonl(*rows), memory_bytes=1 << 30).report["ok"]
