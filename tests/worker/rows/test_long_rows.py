"""Long rows take time in proportion to their length."""

import time
from pathlib import Path

import pytest

from api.spec.formats import FORMATS
from api.spec.formats.base import parse_number
from api.spec.methods.supervised import Supervised
from tests.worker import bases
from worker.rows.check_row import ROW_SECONDS
from worker.rows.row_builder import RowBuilder, load_renderer
from worker.rows.tokenize_rows import TokenizerWrapper

QUESTION, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize("template", [bases.CHATML, bases.MARKED_CHATML])
def test_a_conversation_of_thousands_of_turns_is_checked_in_time(tmp_path: Path, template: str) -> None:
    base = bases.base(tmp_path, template=template)
    builder = RowBuilder(Supervised(), load_renderer(base, TokenizerWrapper.load(base)))
    example = FORMATS["chat"].parse({"messages": [QUESTION, ANSWER] * 1_500})
    started = time.process_time()
    builder.build(example)
    assert time.process_time() - started < ROW_SECONDS


@pytest.mark.parametrize("text", ["1" * 20_000 + "x", "." + "1" * 20_000 + "x", " " * 20_000 + "x"])
def test_a_text_that_is_almost_a_number_is_told_at_once(text: str) -> None:
    started = time.process_time()
    assert parse_number(text) is None
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["1", "-1", "1.", ".5", "1.5", "1e3", " +1.5E-3 "])
def test_numbers_are_read_as_they_are_written(text: str) -> None:
    assert parse_number(text) == float(text)
