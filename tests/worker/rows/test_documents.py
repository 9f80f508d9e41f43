"""Plain text as tokens: one beginning and one end of text, whether the row has them already or not."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from tests.worker import bases
from worker.rows.tokenize_rows import PromptCompletionText, TokenizerWrapper, TokenRow

FRAMES = {"bare": "$A", "begun": "<s> $A", "framed": "<s> $A </s>", "two": "<s> <unk> $A"}
"""What tokenizers put around a text: GPT-2's and Qwen's nothing, Llama's a beginning, GLM's two tokens."""
ROWS = {
    "text": PromptCompletionText("", "A document."),
    "completion": PromptCompletionText("A prompt:", " its completion."),
    "weighted prompt": PromptCompletionText("A prompt:", " its completion.", prompt_weight=0.5),
    "prompt": PromptCompletionText("A prompt:", weight=0.0, append_end=False),
}


def framed(folder: Path, frame: str, *, eos: str = "</s>") -> TokenizerWrapper:
    tokenizer = Tokenizer.from_str(bases.byte_level())
    named = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>", "<unk>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, pair=f"{frame} $B", special_tokens=named)
    base = bases.base(folder, template=None, tokenizer=tokenizer.to_str(), eos=eos)
    return TokenizerWrapper.load(base)


def changed(row: PromptCompletionText, *, begin: str = "", end: str = "") -> PromptCompletionText:
    given, learnt = (begin + row.prompt, row.completion) if row.prompt else ("", begin + row.completion)
    given, learnt = (given, learnt + end) if row.completion else (given + end, "")
    return PromptCompletionText(given, learnt, row.weight, row.prompt_weight, row.append_end)


def encoded(tokens: TokenizerWrapper, row: PromptCompletionText) -> TokenRow:
    [found] = tokens.encode_plain([row])
    return found


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", ROWS)
def test_a_row_that_has_its_frame_already_becomes_the_same_tokens(tmp_path: Path, kind: str, frame: str) -> None:
    tokens, row = framed(tmp_path, FRAMES[frame]), ROWS[kind]
    plain = encoded(tokens, row)
    begin = FRAMES[frame].partition("$A")[0].replace(" ", "")
    end = "</s>" if row.append_end else ""
    for given in (changed(row, begin=begin), changed(row, end=end), changed(row, begin=begin, end=end)):
        again = encoded(tokens, given)
        assert again.tokens.tolist() == plain.tokens.tolist()
        assert again.loss_weights.tolist() == plain.loss_weights.tolist()


@pytest.mark.parametrize("text", ["<s>[INST] Hi [/INST] Hello</s>", "<s>[INST] Hi [/INST] Hello</s>\n"])
def test_a_rendered_conversation_as_text_keeps_the_tokens_that_its_template_wrote(tmp_path: Path, text: str) -> None:
    tokens = TokenizerWrapper.load(bases.base(tmp_path, template=None, tokenizer=bases.sentence_piece(), eos="</s>"))
    expected = tokens.tokenizer.encode(text, add_special_tokens=False).ids
    assert encoded(tokens, PromptCompletionText("", text)).tokens.tolist() == expected
    given, learnt = text[:20], text[20:]
    whole = encoded(tokens, PromptCompletionText(given, learnt))
    assert [whole.tokens.tolist().count(tokens.tokenizer.token_to_id(each)) for each in ("<s>", "</s>")] == [1, 1]
    assert np.flatnonzero(whole.loss_weights)[0] > 0


def test_another_token_that_ends_a_generation_ends_a_document_too(tmp_path: Path) -> None:
    base = bases.base(tmp_path, template=None, eos="</s>")
    end_of_turn = Tokenizer.from_file(str(base / "tokenizer.json")).token_to_id("<|im_end|>")
    (base / "generation_config.json").write_text(f'{{"eos_token_id": [{end_of_turn}]}}')
    rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>"
    assert encoded(TokenizerWrapper.load(base), PromptCompletionText("", rendered)).tokens[-1] == end_of_turn


def test_a_prompt_that_ends_a_turn_leaves_an_empty_completion_its_end(tmp_path: Path) -> None:
    tokens = framed(tmp_path, FRAMES["begun"])
    row = encoded(tokens, PromptCompletionText("A question.</s>", ""))
    assert row.loss_weights.tolist()[-2:] == [0.0, 1.0]


def test_a_word_that_only_looks_like_an_end_is_followed_by_one(tmp_path: Path) -> None:
    tokens = framed(tmp_path, FRAMES["begun"])
    row = encoded(tokens, PromptCompletionText("", "The end of text is </s >"))
    assert row.tokens[-1] == tokens.tokenizer.token_to_id("</s>")
