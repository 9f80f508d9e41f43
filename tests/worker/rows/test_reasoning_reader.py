"""Where the reasoning of a generated answer ends, however the answer is cut into pieces."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.worker import bases
from worker.rows.reasoning_reader import Part, ReasoningReader, content_of, first_part

PIECES = ("<think>", "</think>", "<thi", "nk>", "</", "think>", "<", ">", "\n\n", " ", "Paris", "<tool_call>")


def read(pieces: Sequence[str], part: Part) -> tuple[str, str]:
    reader = ReasoningReader(part)
    read = [*map(reader.add, pieces), reader.finish()]
    return "".join(reasoning for reasoning, _ in read), "".join(content for _, content in read)


@pytest.mark.parametrize(
    ("text", "part", "reasoning", "content"),
    [
        ("<think>\n\n</think>\n\nParis", "start", "", "Paris"),
        ("<think>\nA capital.\n\nFrance's.\n</think>\n\nParis", "start", "A capital.\n\nFrance's.", "Paris"),
        ("A capital.\n</think>\n\nParis", "opened", "A capital.", "Paris"),
        ("\n<think>One.</think>Paris </think> it is", "start", "One.", "Paris </think> it is"),
        ("<think>\nA capital. It is", "start", "A capital. It is", ""),
        ("A capital.\n</think>", "opened", "A capital.", ""),
        ("A capital.\n</think>\n\nParis", "start", "", "A capital.\n</think>\n\nParis"),
        ("  Paris, not <think>", "start", "", "  Paris, not <think>"),
        ("<thi", "start", "", "<thi"),
        (" \n", "start", "", " \n"),
        ("<think>\n</think>\nParis", "content", "", "<think>\n</think>\nParis"),
    ],
)
def test_the_reasoning_is_read_apart(text: str, part: Part, reasoning: str, content: str) -> None:
    assert read([text], part) == (reasoning, content)
    assert read(list(text), part) == (reasoning, content), "character by character"
    assert content_of(text, part) == content


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), part=st.sampled_from(("start", "opened")))
def test_pieces_of_any_size_give_the_same(pieces: list[str], part: Part) -> None:
    text = "".join(pieces)
    assert read(pieces, part) == read(list(text), part) == read([text], part)


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("<|im_start|>assistant\n<think>\n", "opened"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "start"),
        ("What is <think>?<|im_end|>\n<|im_start|>assistant\n", "start"),
    ],
)
def test_a_prompt_may_open_the_reasoning(prompt: str, part: Part) -> None:
    tokenizer = Tokenizer.from_str(bases.byte_level())
    assert first_part(tokenizer, tokenizer.encode(prompt, add_special_tokens=False).ids) == part
