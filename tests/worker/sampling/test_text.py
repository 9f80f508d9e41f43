"""What is told of an answer while it grows."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.tiny_models import make_tokenizer
from tests.worker.bases import sentence_piece
from worker.sampling.text import AnswerText, TextDelta
from worker.sampling.token_bytes import TokenBytes
from worker.sampling.token_sampler import SampledToken


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token for each byte: every other character is split."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def told(tokenizer: Tokenizer, text: str, stop: Sequence[str] = ()) -> list[TextDelta]:
    """All pieces of a text that comes token by token, as far as it is asked for."""
    answer = AnswerText(tokenizer, stop)
    pieces = []
    for number in tokenizer.encode(text, add_special_tokens=False).ids:
        pieces.append(answer.add(SampledToken(number)))
        if answer.stopped:
            break
    return [*pieces, answer.finish()]


def joined(pieces: list[TextDelta]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_character_of_several_tokens_is_told_when_it_is_whole(tokenizer: Tokenizer) -> None:
    assert [piece.text for piece in told(tokenizer, "aé€")] == ["a", "", "é", "", "", "€", ""]


def test_half_a_character_at_the_end_is_left_out(tokenizer: Tokenizer) -> None:
    answer = AnswerText(tokenizer, [])
    first, second, _ = tokenizer.encode("€").ids
    assert joined([answer.add(SampledToken(first)), answer.add(SampledToken(second)), answer.finish()]) == ""


def test_a_stop_string_that_straddles_tokens_is_not_told(tokenizer: Tokenizer) -> None:
    pieces = told(tokenizer, "one STOP two", ["STOP"])
    assert joined(pieces) == "one "
    assert all("S" not in piece.text for piece in pieces)


def test_the_beginning_of_a_stop_string_that_does_not_go_on_is_told(tokenizer: Tokenizer) -> None:
    assert joined(told(tokenizer, "a STO", ["STOP"])) == "a STO"
    assert joined(told(tokenizer, "STSTOx", ["STOP"])) == "STSTOx"


def test_the_first_of_several_stop_strings_ends_the_answer(tokenizer: Tokenizer) -> None:
    assert joined(told(tokenizer, "a;b\n\nc", ["\n\n", ";"])) == "a"


def test_tokens_are_told_with_their_text_and_without_what_a_stop_string_cut(tokenizer: Tokenizer) -> None:
    pieces = told(tokenizer, "abSTOP", ["STOP"])
    ids = [token.id for piece in pieces for _, token in piece.tokens]
    assert ids == tokenizer.encode("ab").ids
    assert [offset for piece in pieces for offset, _ in piece.tokens] == [0, 1]


@given(text=st.text(max_size=40), stop=st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_what_is_told_is_the_text_up_to_its_first_stop_string(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    text = text.replace("\N{REPLACEMENT CHARACTER}", "")  # stands for half a character, too
    said = joined(told(tokenizer, text, stop))
    assert text.startswith(said)
    assert not any(each in said for each in stop)
    assert said == text or any(each in text for each in stop)


def test_an_answer_that_continues_a_text_keeps_the_space_before_it() -> None:
    tokenizer = Tokenizer.from_str(sentence_piece())
    before, both = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("the job", "the job is"))
    answer = AnswerText(tokenizer, [], given=before)
    assert joined([*(answer.add(SampledToken(number)) for number in both[len(before) :]), answer.finish()]) == " is"


def test_the_bytes_of_tokens_make_the_text(tokenizer: Tokenizer) -> None:
    names = TokenBytes(tokenizer)
    assert b"".join(map(names.of, tokenizer.encode("aé€ \n</turn>").ids)).decode() == "aé€ \n</turn>"
    assert names.of(299) == b"", "a number without a token"


@pytest.mark.parametrize("prompt", ["a \N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}", "€ €"])
def test_an_answer_does_not_repeat_a_prompt_that_seems_to_end_within_a_character(
    tokenizer: Tokenizer, prompt: str
) -> None:
    assert continued(tokenizer, prompt, "b", held=0) == "b"


def test_an_answer_begins_with_the_character_within_which_its_prompt_ends(tokenizer: Tokenizer) -> None:
    assert continued(tokenizer, "€ €", "b", held=1) == "€b"


def continued(tokenizer: Tokenizer, prompt: str, answer: str, *, held: int) -> str:
    """The answer to all of the prompt's tokens but the last `held`, with which it begins."""
    tokens = tokenizer.encode(prompt + answer, add_special_tokens=False).ids
    cut = len(tokenizer.encode(prompt, add_special_tokens=False).ids) - held
    text = AnswerText(tokenizer, [], given=tokens[:cut])
    return joined([*(text.add(SampledToken(number)) for number in tokens[cut:]), text.finish()])
