"""The form in which a chat template writes the calls of functions, learned from a rendered example.

Templates write a call in one of the syntaxes of `call_syntax`, with different words around it: Qwen and Hermes write
JSON in <tool_call> tags, Mistral a list after [TOOL_CALLS], Llama bare JSON with `parameters` for `arguments`.
"""

from collections.abc import Collection
from dataclasses import dataclass

from api.spec.fields import JsonObject
from api.spec.formats import Message, Messages
from worker.rows.chat_template import ChatTemplate, TemplateFailure
from worker.sampling.call_syntax import SYNTAXES, CallSyntax

NAMES = ("probe_a", "probe_b")
IDS = ("aProbe001", "bProbe002")
"""Ids of the example's calls, in the only form that Mistral's templates accept."""
TEXT = "probe text"

_TOOLS: Messages = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "a",
            "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
        },
    }
    for name in NAMES
]
_CALLS = [
    {"id": call_id, "type": "function", "function": {"name": name, "arguments": {"key": "value"}}}
    for call_id, name in zip(IDS, NAMES, strict=True)
]
_QUESTION: Message = {"role": "user", "content": "a"}


@dataclass(frozen=True)
class CallForm:
    """The syntax of calls, and the texts around them in a message of the assistant.

    The calls of a message are written as: `opening` call (`between` call)* `end`. Each call is written as: `head` name
    `middle` arguments `tail`.
    """

    syntax: CallSyntax
    lead: str
    """Text that the template writes before `opening` in a message without content, such as empty reasoning."""
    opening: str
    """Text before the first call, which begins with `marker`. Empty for templates that write bare calls."""
    marker: str
    """The first word of the calls, by which they are recognized in an answer."""
    head: str
    middle: str
    tail: str
    call_id: str
    """The id of the example call as it is in `tail`; empty if the template writes no ids."""
    between: str | None
    """Text between two calls. None: a message has one call at most."""
    end: str

    @classmethod
    def learn(cls, template: ChatTemplate, ends: Collection[str]) -> "CallForm | None":
        """Return the form in which the template writes calls; None if their syntax is unknown. `ends`: texts of the end
        tokens."""
        try:
            prompt = template.render([_QUESTION], _TOOLS, add_generation_prompt=True)
            turn = _turn(template, prompt, {"content": ""}, _CALLS[:1])
            after_text = _turn(template, prompt, {"content": TEXT}, _CALLS[:1])
        except TemplateFailure:
            return None
        syntax = next((each for each in SYNTAXES if each.find(turn, NAMES[0])), None)
        if syntax is None or (call := syntax.find(turn, NAMES[0])) is None:
            return None
        if (later := syntax.find(after_text, NAMES[0])) is None:
            return None
        start, stop = call
        head, middle, tail = syntax.parts(turn[start:stop], NAMES[0])
        begin, end = turn[:start], turn[stop:]
        end = end[: min((end.index(each) for each in ends if each in end), default=len(end))].rstrip()
        begin_after_text = after_text[: later[0]].rpartition(TEXT)[2]
        opening = begin[len(begin) - _shared(begin[::-1], begin_after_text[::-1]) :].lstrip()
        marker = opening.split()[0] if opening else head.rstrip(' "')
        call_id = IDS[0] if IDS[0] in tail else ""
        lead = begin[: len(begin) - len(opening)]
        between = _between(template, prompt, syntax)
        return cls(syntax, lead, opening, marker, head, middle, tail, call_id, between, end)


def knows_tools(template: ChatTemplate) -> bool:
    """Return whether the template writes the tools that it receives."""
    try:
        return template.render([_QUESTION], _TOOLS) != template.render([_QUESTION])
    except TemplateFailure:
        return False


def _turn(template: ChatTemplate, prompt: str, fields: JsonObject, calls: Messages) -> str:
    """Return the rendered message of the assistant, without the prompt that it answers."""
    answer = {"role": "assistant", **fields, "tool_calls": calls}
    text = template.render([_QUESTION, answer], _TOOLS)
    return text[_shared(prompt, text) :]


def _shared(left: str, right: str) -> int:
    """Return the length of the longest text with which both texts begin."""
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _between(template: ChatTemplate, prompt: str, syntax: CallSyntax) -> str | None:
    """Return the text between two calls of a message; None if the template cannot write two."""
    try:
        turn = _turn(template, prompt, {"content": ""}, _CALLS)
    except TemplateFailure:
        return None
    first, second = (syntax.find(turn, name) for name in NAMES)
    return None if first is None or second is None else turn[first[1] : second[0]]
