"""Loss weights from the bytes of tokens equal those from the tokenizer's offsets."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers

from tests.worker import bases
from worker.rows.spans import Span
from worker.rows.token_bytes import TokenBytes
from worker.rows.tokenize_rows import MIN_BATCH, TokenizerWrapper

PARTS = (
    "The work",
    " ",
    "\n\n",
    "Größe",
    "😀",
    "e\u0301",
    "\u00a0",
    "<|im_start|>",
    "<|im_end|>",
    "</s>",
    "中文",
    "\t",
    "\0",
    "",
)


@dataclass(frozen=True)
class Row:
    text: str
    spans: list[Span]
    rest_weight: float = 0.0


def random_rows(seed: int) -> list[Row]:
    chosen = random.Random(seed)
    return [_random_row(chosen) for _ in range(MIN_BATCH)]


def _random_row(chosen: random.Random) -> Row:
    text = "".join(chosen.choices(PARTS, k=chosen.randint(0, 12)))
    borders = sorted(chosen.randint(0, len(text)) for _ in range(2 * chosen.randint(0, 3)))
    spans = [
        Span(begin, end, chosen.choice((0.5, 1.0))) for begin, end in zip(borders[::2], borders[1::2], strict=True)
    ]
    return Row(text, spans, chosen.choice((0.0, 0.25)))


def same_as_by_offsets(tokenizer: TokenizerWrapper, rows: list[Row]) -> bool:
    together = tokenizer.encode_spanned(rows)
    one_by_one = [tokenizer.encode_spanned([row])[0] for row in rows]
    return [(row.tokens.tolist(), row.loss_weights.tolist()) for row in together] == [
        (row.tokens.tolist(), row.loss_weights.tolist()) for row in one_by_one
    ]


@pytest.mark.parametrize("seed", range(30))
def test_weights_equal_those_by_offsets(tmp_path: Path, seed: int) -> None:
    tokenizer = TokenizerWrapper.load(bases.base(tmp_path))
    assert TokenBytes.load(tokenizer.tokenizer) is not None
    assert same_as_by_offsets(tokenizer, random_rows(seed))


def test_a_text_that_the_tokenizer_changes_takes_its_offsets(tmp_path: Path) -> None:
    changing = Tokenizer.from_str(bases.byte_level())
    changing.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer = TokenizerWrapper.load(bases.base(tmp_path, tokenizer=changing.to_str()))
    assert same_as_by_offsets(tokenizer, random_rows(0))


def test_only_byte_level_tokenizers_have_bytes(tmp_path: Path) -> None:
    tokenizer = TokenizerWrapper.load(bases.base(tmp_path, tokenizer=bases.sentence_piece()))
    assert TokenBytes.load(tokenizer.tokenizer) is None
    assert same_as_by_offsets(tokenizer, random_rows(0))


def test_overlapping_spans_take_offsets(tmp_path: Path) -> None:
    tokenizer = TokenizerWrapper.load(bases.base(tmp_path))
    assert same_as_by_offsets(tokenizer, [Row("The work of a day", [Span(0, 9, 1.0), Span(4, 12, 0.5)])] * MIN_BATCH)
