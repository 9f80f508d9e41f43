"""Whatever bytes a line is made of, it is an object or a reason why it is not."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.spec.formats import RowError
from worker.rows.readers.jsonl import decode_object, read_lines

GOOD = b'{"messages": [{"role": "user", "content": "\\u00fc \\ud83d\\ude00"}], "n": -1.5e3, "t": true, "z": null}'


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good line with a chunk replaced."""
    start = draw(st.integers(0, len(GOOD)))
    end = draw(st.integers(start, min(len(GOOD), start + 12)))
    chunks = st.sampled_from(
        [b"", b"\\", b'"', b"{", b"}", b"[", b"\\ud83d", b"NaN", b"\0", b"\xff", b"9" * 4400, b"1e999"]
    )
    return GOOD[:start] + draw(chunks | st.binary(max_size=6)) + GOOD[end:]


@settings(max_examples=1500, deadline=None)
@given(damaged() | st.binary(max_size=60))
@example(GOOD)
@example(b'{"a": ' + b"1" * 4300 + b"}")
@example(b'{"a":' * 900 + b"1" + b"}" * 900)
@example(b'{"a":' * 1100 + b"1" + b"}" * 1100)
def test_any_line_is_an_object_or_a_row_error(line: bytes) -> None:
    with suppress(RowError):
        row = decode_object(line)
        assert isinstance(row, dict)
        str(row).encode()  # only real characters


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a", [(1, b"a")]),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"\xef\xbb\xbfa\r\n\r\nb\n", [(1, b"a"), (2, b""), (3, b"b")]),
        (b"x" * 10 + b"\r\n" + b"y", [(1, b"x" * 10), (2, b"y")]),
        (b"x" * 11 + b"\ny", [(1, None), (2, b"y")]),
        (b"x" * 200_000 + b"\ny", [(1, None), (2, b"y")]),
    ],
)
def test_lines_are_numbered_as_an_editor_numbers_them(
    tmp_path: Path, content: bytes, expected: list[tuple[int, bytes | None]]
) -> None:
    (tmp_path / "rows").write_bytes(content)
    with (tmp_path / "rows").open("rb") as file:
        lines = list(read_lines(file, line_bytes=10))
    assert [(number, None if isinstance(line, RowError) else line) for number, line in lines] == expected
