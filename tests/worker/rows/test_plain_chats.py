"""Plain chats take a shorter path, and all that is reported and written stays the same."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.worker import bases
from tests.worker.rows.odd_rows import odd_lines, valid_lines
from worker import prepare, scan
from worker.rows.child_io import RowLimits
from worker.rows.errors import FileRequest, JobRejected
from worker.rows.readers import ReadLimits
from worker.rows.readers.plain_chat import find_plain_chat

LIMITS = ReadLimits(line_bytes=2000)


def no_row_is_plain(patch: pytest.MonkeyPatch) -> None:
    for reader in ("jsonl", "json_array"):
        patch.setattr(f"worker.rows.readers.{reader}.find_plain_chat", lambda line: None)


@pytest.mark.parametrize("seed", range(20))
def test_a_scan_reports_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    (tmp_path / "input").write_bytes(odd_lines(seed, 200))
    report = scan.scan(tmp_path / "input", LIMITS)
    no_row_is_plain(monkeypatch)
    assert report == scan.scan(tmp_path / "input", LIMITS)


def prepared(folder: Path, base: Path, content: bytes) -> tuple[prepare.Report, dict[str, bytes]]:
    """Return the report and the arrays of the same file for training and for validation."""
    folder.mkdir()
    (folder / "base").symlink_to(base)
    (folder / "rows").write_bytes(content)
    files = [FileRequest(name, "rows", "file-abc", f"{name}_file", 1) for name in ("training", "validation")]
    limits = RowLimits(line_bytes=LIMITS.line_bytes)
    method: dict[str, object] = {"type": "supervised"}
    request = prepare.Request("ftjob-1", method, files, context_window=60, rendered_at=0.0, limits=limits)
    report = prepare.Report(ok=True, files=[])
    try:
        prepare.prepare(folder, request, report)
    except JobRejected as rejected:
        report.error = rejected.body()
    return report, {file.name: file.read_bytes() for file in (folder / "data").iterdir()}


@pytest.mark.parametrize("template", [bases.CHATML, bases.MARKED_CHATML, bases.STRIPPING, bases.THINKING])
@pytest.mark.parametrize(("lines", "seed"), [(odd_lines, 1), *((valid_lines, seed) for seed in range(4))])
def test_a_job_gets_the_same_arrays_and_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, lines: Callable[[int, int], bytes], seed: int
) -> None:
    base, content = bases.base(tmp_path / "base", template=template), lines(seed, 100)
    quick = prepared(tmp_path / "quick", base, content)
    no_row_is_plain(monkeypatch)
    slow = prepared(tmp_path / "slow", base, content)
    assert msgspec.json.encode(quick[0]) == msgspec.json.encode(slow[0])
    assert quick[1] == slow[1]


MESSAGE = b'{"role": "user", "content": "a"}'


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        (b'{"messages": [%b]}' % MESSAGE, True),
        (b' {"messages":[{"content" : "\\"\\u00e9\\\\", "role":"system"},%b ] }' % MESSAGE, True),
        (b'{"messages": [%b], "messages": [%b]}' % (MESSAGE, MESSAGE), False),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', False),
        (b'{"messages": [{"role": "user", "content": "a", "c\\u006fntent": "\\u0022\\u0022"}]}', False),
        (b'{"messages": [{"role": "user", "content": "\\u0000"}]}', False),
        (b'{"messages": [{"role": "user", "content": " \\n"}]}', False),
        (b'{"messages": [{"role": "user", "content": null}]}', False),
        (b'{"messages": [{"role": "tool", "content": "a"}]}', False),
        (b'{"messages": [{"role": "user", "content": "a", "name": "b"}]}', False),
        (b'{"messages": [%b], "id": 1}' % MESSAGE, False),
        (b'{"messages": []}', False),
        (b'{"messages": [%b]}x' % MESSAGE, False),
        (b"[" * 5000, False),
        (b"\xff", False),
        (b"", False),
    ],
)
def test_only_rows_of_roles_and_texts_are_plain(line: bytes, plain: bool) -> None:
    assert (find_plain_chat(line) is not None) == plain


def test_most_of_the_rows_compared_here_are_plain() -> None:
    lines = [line for seed in range(4) for line in valid_lines(seed, 100).splitlines()]
    assert sum(find_plain_chat(line) is not None for line in lines) > 0.6 * len(lines)
