"""The "Use it" section of the model card.

It shows how to build inputs in the form of the training data, and how generation stops at the end of an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from transformers import PreTrainedConfig

from api.spec.resolve import ResolvedRecipe, max_row_tokens
from worker.engine.model.families import context_window
from worker.engine.publish.markdown import fenced
from worker.rows.chat_template import ChatTemplate
from worker.rows.generation_ends import tokenizer_and_ends
from worker.rows.special_tokens import special_tokens
from worker.rows.tokenize_rows import TokenizerWrapper


@dataclass(frozen=True)
class Usage:
    """Facts about a model that its "Use it" section states."""

    chat: bool = False
    """Whether the model has a chat template."""
    stops: Sequence[int] = ()
    """Ids of the tokens that end an answer."""
    unknown_stops: Sequence[int] = ()
    """The tokens among `stops` that the base model's own generation settings lack."""
    pad_token: int | None = None
    """`pad_token_id` in the config of a classifier or a reward model."""
    tokenizer_pads: bool = True
    """Whether the tokenizer pads with `pad_token`."""
    text_end: str = ""
    """The text that ended each plain-text row in training, if the tokenizer does not append it itself; empty
    otherwise."""
    unquantized: Sequence[str] = ()
    """The modules that stayed unquantized in the training, if the base model was quantized."""
    max_length: int | None = None
    """Number of tokens to which a classifier's inputs are cut; None if the context window is unknown and no training
    row was cut."""

    @classmethod
    def of(cls, base: Path, recipe: ResolvedRecipe, config: PreTrainedConfig, *, truncated: bool) -> "Usage":
        """`config`: the published model's config. `truncated`: whether training rows were cut to the recipe's
        `max_length`."""
        chat = ChatTemplate.load(base) is not None
        unquantized = getattr(getattr(config, "quantization_config", None), "llm_int8_skip_modules", ())
        if recipe.method.output == "tokens":
            _, endings = tokenizer_and_ends(base.resolve())
            unknown_stops = sorted(endings.stops - endings.own_stops)
            return cls(chat, sorted(endings.stops), unknown_stops, unquantized=unquantized)
        tokenizer_pad, text_end = _pad_and_end(base.resolve())
        pad_token = getattr(config, "pad_token_id", None)
        window = context_window(config.get_text_config())
        limit = None if window is None else max_row_tokens(recipe.method, recipe.technique, window)
        return cls(
            chat,
            pad_token=pad_token,
            tokenizer_pads=tokenizer_pad == pad_token,
            text_end=text_end,
            unquantized=unquantized,
            max_length=recipe.max_length if truncated else limit,
        )


@lru_cache(maxsize=1)  # every checkpoint has a card, and a large tokenizer takes seconds to load
def _pad_and_end(base: Path) -> tuple[int | None, str]:
    """Return (the tokenizer's padding token, the text that training appends to a row and the tokenizer does not)."""
    wrapper, pad = TokenizerWrapper.load(base), special_tokens(base).get("pad_token")
    pad_id = wrapper.tokenizer.token_to_id(pad) if pad else None
    end = wrapper.suffix[-1:] if wrapper.tokenizer.encode("a").ids[-1:] != wrapper.suffix[-1:] else []
    return pad_id, wrapper.tokenizer.decode(end, skip_special_tokens=False)


def usage_section(recipe: ResolvedRecipe, usage: Usage) -> str:
    """Return the section as Markdown."""
    if recipe.method.output == "reward":
        return _reward_model(usage)
    return _classifier(recipe, usage) if recipe.method.output == "labels" else _generation(recipe, usage)


def _generation(recipe: ResolvedRecipe, usage: Usage) -> str:
    adapter = not recipe.technique.whole_model
    end_argument = f", eos_token_id={list(usage.stops)}" if adapter and usage.unknown_stops else ""
    lines = [CHAT if usage.chat else TEXT, f"answer = model.generate(**inputs, max_new_tokens=256{end_argument})"]
    lines.append("print(tokenizer.decode(answer[0, inputs['input_ids'].shape[1] :], skip_special_tokens=True))")
    text = fenced("\n".join(lines), "python")
    if not usage.unknown_stops:
        return text
    if not adapter:
        return f"{text}\n\nAnswers end at the tokens {_listed(usage.stops)}, which `generation_config.json` lists."
    return (
        f"{text}\n\nAnswers end with one of the tokens {_listed(usage.stops)}. The base model's own settings do not "
        f"list {_listed(usage.unknown_stops)}: pass `eos_token_id` as above (vLLM: `stop_token_ids`), or generation "
        "continues beyond the answer."
    )


def _reward_model(usage: Usage) -> str:
    end = f" + {usage.text_end!r}" if usage.text_end else ""
    text_code = fenced(REWARD_OF_TEXT.format(end=end), "python")
    code = f"{fenced(REWARD, 'python')}\n\nIf the training rows were texts:\n\n{text_code}" if usage.chat else text_code
    return (
        f"{code}\n\nThe reward is read at the last token. The input must therefore end exactly as the rows did in "
        f"training, including everything after the answer. {_padding(usage)}"
    )


def _classifier(recipe: ResolvedRecipe, usage: Usage) -> str:
    cut = "" if usage.max_length is None else f", truncation=True, max_length={usage.max_length}"
    single = recipe.labels is not None and recipe.labels.problem == "single_label"
    text = fenced(LABELS.format(cut=cut) + (PRINT_LABEL if single else ""), "python")
    chat = (
        "If the training rows were conversations, use `tokenizer.apply_chat_template(messages, return_dict=True, "
        'return_tensors="pt")` instead. '
    )
    head = "" if recipe.technique.whole_model else f"\n\n{HEAD}"
    return f"{text}\n\n{chat if usage.chat else ''}{_padding(usage)}{head}"


def _padding(usage: Usage) -> str:
    if usage.tokenizer_pads or usage.pad_token is None:
        return "For a batch, pass `padding=True`."
    return (
        f"For a batch, set `tokenizer.pad_token_id = {usage.pad_token}` and pass `padding=True`: the model finds the "
        "end of each input by that token, `pad_token_id` in its config."
    )


def _listed(token_ids: Sequence[int]) -> str:
    return ", ".join(map(str, token_ids))


CHAT = """messages = [{"role": "user", "content": "…"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""

TEXT = """inputs = tokenizer("…", return_tensors="pt")"""

REWARD = """messages = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]
inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
reward = model(**inputs).logits[0, 0].item()"""

REWARD_OF_TEXT = """inputs = tokenizer("…prompt and answer…"{end}, return_tensors="pt")
reward = model(**inputs).logits[0, 0].item()"""

LABELS = """inputs = tokenizer("…"{cut}, return_tensors="pt")
scores = model(**inputs).logits[0]"""

PRINT_LABEL = """
print(model.config.id2label[int(scores.argmax())])"""

HEAD = (
    "While it loads the base model, transformers may report the head (`classifier.weight`, `score.weight`) as MISSING. "
    "That is expected: the adapter brings the head."
)
