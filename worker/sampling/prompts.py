"""The prompts of a request, as the model's tokens."""

from api.spec.formats import Messages
from api.spec.sampling import SamplerJob
from worker.rows.chat_template import TemplateFailure
from worker.rows.limits import TooSlow, time_limit
from worker.rows.tokenizer import PromptCompletionText
from worker.sampling.bases import LoadedBase
from worker.sampling.refused import RequestRefused

TEMPLATE_TIMEOUT_S = 10


def prompts_of(request: SamplerJob, base: LoadedBase) -> list[list[int]]:
    """Return the tokens of each prompt."""
    if request.messages is not None:
        return [_chat_tokens(request.messages, base)]
    return [_completion_tokens(prompt, base) for prompt in request.prompts or []]


def _chat_tokens(messages: Messages, base: LoadedBase) -> list[int]:
    if base.template is None:
        raise RequestRefused(
            "This model has no chat template. Use /v1/completions, or a base model that has one.",
            param="model",
            code="no_chat_template",
        )
    try:
        with time_limit(TEMPLATE_TIMEOUT_S):
            text = base.template.render(messages, add_generation_prompt=True)
    except TemplateFailure as failure:
        raise RequestRefused(
            f"The model's chat template cannot render these messages: {failure}",
            param="messages",
            code="template_refuses",
        ) from failure
    except TooSlow:
        raise RequestRefused(
            f"The model's chat template took longer than {TEMPLATE_TIMEOUT_S} s with these messages.",
            param="messages",
            code="template_refuses",
        ) from None
    return base.tokenizer.tokenizer.encode(text, add_special_tokens=False).ids


def _completion_tokens(prompt: str | list[int], base: LoadedBase) -> list[int]:
    if isinstance(prompt, str):
        tokens = [
            int(token)
            for token in base.tokenizer.encode_plain([PromptCompletionText(prompt, append_end=False)])[0].tokens
        ]
    else:
        tokens = prompt
        if not all(0 <= token < base.vocabulary for token in tokens):
            raise RequestRefused(
                f"prompt: this model's token ids are 0 to {base.vocabulary - 1}.", param="prompt", code="invalid_value"
            )
    if not tokens:
        raise RequestRefused("prompt is empty: there is no text to continue.", param="prompt", code="invalid_value")
    return tokens


def max_answer_tokens(request: SamplerJob, context_length: int | None, prompt_tokens: int) -> int:
    """Return how many tokens an answer may have. Raises RequestRefused if the prompt is too long."""
    if context_length is None:
        return request.max_tokens
    taken = prompt_tokens + (request.technique.virtual_tokens if request.technique is not None else 0)
    if taken + min(1, request.max_tokens) > context_length:
        raise RequestRefused(
            f"This model's maximum context length is {context_length} tokens, and the prompt has {taken}.",
            param="messages" if request.messages is not None else "prompt",
            code="context_length_exceeded",
        )
    return min(request.max_tokens, context_length - taken)
