"""The prompts of a request, as the model's tokens."""

from api.spec.formats import Messages
from api.spec.sampling import SamplerJob
from worker.rows.chat_template import TemplateFailure
from worker.rows.limits import TooSlow, time_limit
from worker.rows.tokenize_rows import PromptCompletionText
from worker.sampling.bases import LoadedBase
from worker.sampling.call_form import knows_tools
from worker.sampling.refused import RequestRefused

TEMPLATE_TIMEOUT_S = 10


def prompts_of(request: SamplerJob, base: LoadedBase) -> list[list[int]]:
    """Return the tokens of each prompt. Raises RequestRefused if the model cannot read a prompt."""
    if request.messages is not None:
        return [_chat_tokens(request, request.messages, base)]
    return [_completion_tokens(prompt, base) for prompt in request.prompts or []]


def _chat_tokens(request: SamplerJob, messages: Messages, base: LoadedBase) -> list[int]:
    if base.template is None:
        raise RequestRefused(
            "This model has no chat template. Use /v1/completions, or a base model that has one.",
            param="model",
            code="no_chat_template",
        )
    try:
        with time_limit(TEMPLATE_TIMEOUT_S):
            lead, tools = _lead(request, base), rendered(request)
            if not request.thinking and not base.template.switches_thinking(tools):
                raise RequestRefused(
                    "reasoning_effort: this model's chat template cannot turn reasoning off. Leave it out.",
                    param="reasoning_effort",
                    code="reasoning_effort_not_supported",
                )
            text = base.template.render(messages, tools, add_generation_prompt=True, thinking=request.thinking)
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
    return base.tokenizer.tokenizer.encode(text.removesuffix(lead) + lead, add_special_tokens=False).ids


def _lead(request: SamplerJob, base: LoadedBase) -> str:
    """Return the end of the prompt: the text that the template writes before calls if the request demands a call, or an
    empty string. Raises RequestRefused if the template takes no tools, or writes calls in an unknown form."""
    if not request.offered_tools:
        return ""
    if base.call_form is None:
        assert base.template is not None
        known = knows_tools(base.template)
        reason = "writes calls in a form that Attune cannot read" if known else "has no place for tools"
        raise RequestRefused(f"tools: this model's chat template {reason}.", param="tools", code="tools_not_supported")
    return "" if request.tool_choice == "auto" else base.call_form.lead


def rendered(request: SamplerJob) -> Messages | None:
    """Return the request's tools in the form that chat templates take; None if there are none."""
    return [tool.model_dump(exclude_none=True) for tool in request.offered_tools] or None


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
    """Return how many tokens an answer may have: the requested number, or as many as the context leaves. Raises
    RequestRefused if the prompt is too long."""
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
