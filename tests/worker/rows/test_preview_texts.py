"""The texts of a preview's tokens: joined, they are the row."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from worker.rows.preview_rows import _token_texts
from worker.rows.tokenize_rows import TokenizerWrapper


def texts(tokenizer: Tokenizer, text: str) -> list[str]:
    return _token_texts(tokenizer.encode(text).ids, TokenizerWrapper(tokenizer, eos_id=None, end_texts=frozenset()))


@pytest.fixture
def wordpiece() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "a", "wonder", "##ful", "day"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def test_words_of_an_encoder_keep_the_space_between_them(wordpiece: Tokenizer) -> None:
    assert texts(wordpiece, "a wonderful day") == ["a", " wonder", "ful", " day"]


def test_a_character_of_several_tokens_is_unknown_in_each_of_them() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    assert texts(tokenizer, "aé b") == ["a", "\ufffd", "\ufffd", " ", "b"]
