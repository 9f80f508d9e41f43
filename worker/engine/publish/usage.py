"""How to ask what was published, for the model card: to read what it was trained on, and to stop at an answer's end."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from api.spec.resolve import ResolvedRecipe
from worker.engine.publish.markdown import fenced
from worker.rows.chat_template import ChatTemplate
from worker.rows.end_tokens import EndTokens
from worker.rows.special_tokens import special_tokens
from worker.rows.tokenizer import TokenizerWrapper


@dataclass(frozen=True)
class Usage:
    """What a caller has to know of a base model."""

    chat: bool = False
    """It has a chat template."""
    stops: Sequence[int] = ()
    """Tokens that end an answer."""
    unknown_stops: Sequence[int] = ()
    """Those of them that the base model's own settings lack."""
    pad_token: int | None = None
    """Of a classifier's or a reward model's config."""
    tokenizer_pads: bool = True
    """The tokenizer pads with that token."""
    text_end: str = ""
    """Ends a text without a template in training, where the tokenizer does not write it by itself."""

    @classmethod
    def of(cls, base: Path, recipe: ResolvedRecipe, pad_token: int | None) -> "Usage":
        chat = ChatTemplate.load(base) is not None
        if recipe.method.output == "tokens":
            endings = _endings(base.resolve())
            return cls(chat, sorted(endings.stops), sorted(endings.stops - endings.own_stops))
        padding, text_end = _frame(base.resolve())
        return cls(chat, pad_token=pad_token, tokenizer_pads=padding == pad_token, text_end=text_end)


# Every checkpoint has a card, and a large tokenizer takes seconds to load.
@lru_cache(maxsize=1)
def _endings(base: Path) -> EndTokens:
    return EndTokens.load(base)


@lru_cache(maxsize=1)
def _frame(base: Path) -> tuple[int | None, str]:
    """The token that the tokenizer pads with, and what training puts after a text and the tokenizer does not."""
    tokens, named = TokenizerWrapper.load(base), special_tokens(base).get("pad_token")
    number = tokens.tokenizer.token_to_id(named) if named else None
    end = tokens.suffix[-1:] if tokens.tokenizer.encode("a").ids[-1:] != tokens.suffix[-1:] else []
    return number, tokens.tokenizer.decode(end, skip_special_tokens=False)


def asking(recipe: ResolvedRecipe, usage: Usage) -> str:
    """Markdown for the model card."""
    if recipe.method.output == "reward":
        return _reward(usage)
    return _labels(recipe, usage) if recipe.method.output == "labels" else _answers(recipe, usage)


def _answers(recipe: ResolvedRecipe, usage: Usage) -> str:
    adapter = not recipe.technique.whole_model
    ends = f", eos_token_id={list(usage.stops)}" if adapter and usage.unknown_stops else ""
    lines = [CHAT if usage.chat else TEXT, f"answer = model.generate(**inputs, max_new_tokens=256{ends})"]
    lines.append("print(tokenizer.decode(answer[0, inputs['input_ids'].shape[1] :], skip_special_tokens=True))")
    text = fenced("\n".join(lines), "python")
    if not usage.unknown_stops:
        return text
    if not adapter:
        return f"{text}\n\nIt stops at the tokens {_listed(usage.stops)}, as `generation_config.json` says."
    return (
        f"{text}\n\nIts answers end in one of the tokens {_listed(usage.stops)}; the base model's own settings lack "
        f"{_listed(usage.unknown_stops)}: give `eos_token_id` as above (to vLLM, `stop_token_ids`), or they run on."
    )


def _reward(usage: Usage) -> str:
    end = f" + {usage.text_end!r}" if usage.text_end else ""
    of_text = fenced(REWARD_OF_TEXT.format(end=end), "python")
    calls = f"{fenced(REWARD, 'python')}\n\nIf the rows were texts:\n\n{of_text}" if usage.chat else of_text
    return (
        f"{calls}\n\nA reward is read at the last token, so that what is sent has to end as the rows did in training: "
        f"with all that stands after the answer. {_padding(usage)}"
    )


def _labels(recipe: ResolvedRecipe, usage: Usage) -> str:
    text = fenced(LABELS.format(max_length=recipe.max_length), "python")
    chat = (
        "If the rows were conversations: `tokenizer.apply_chat_template(messages, return_dict=True, "
        'return_tensors="pt")` instead. '
    )
    return f"{text}\n\n{chat if usage.chat else ''}{_padding(usage)}"


def _padding(usage: Usage) -> str:
    if usage.tokenizer_pads or usage.pad_token is None:
        return "Several at once are padded as usual (`padding=True`)."
    return (
        f"Before several are sent at once, `tokenizer.pad_token_id = {usage.pad_token}`: by that token, the config's "
        "`pad_token_id`, the model finds where each of them ends."
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


CHAT = """messages = [{"role": "user", "content": "…"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""

TEXT = """inputs = tokenizer("…", return_tensors="pt")"""

REWARD = """messages = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]
inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
reward = model(**inputs).logits[0, 0].item()"""

REWARD_OF_TEXT = """inputs = tokenizer("…prompt and answer…"{end}, return_tensors="pt")
reward = model(**inputs).logits[0, 0].item()"""

LABELS = """inputs = tokenizer("…", truncation=True, max_length={max_length}, return_tensors="pt")
scores = model(**inputs).logits[0]"""
