"""Which text of a rendered conversation is the assistant's: a conversation becomes a text and its supervised spans.

Either the template says so itself ({% generation %}), or the answers are marked (worker.rows.sentinels), rendered, and
found by their marks. Without the marks the rendering must be exactly the plain one; if it is not, the row is refused
rather than guessed at.

A span begins where a generation would (after what `add_generation_prompt` adds) and ends with the end of turn.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from api.spec.formats import Conversation, RowError, RowWarning
from api.spec.recipe import Reasoning
from worker.rows.chat_template import ChatTemplate, TemplateFailure
from worker.rows.generation_starts import GenerationStarts
from worker.rows.reasoning import CLOSING, apart, chosen, without_reasoning
from worker.rows.rendered import RenderedTurns, keep_reasoning
from worker.rows.sentinels import Messages, Places, Sentinels
from worker.rows.tokenizer import Span
from worker.rows.turns import AssistantSpans

PROBE = "\U000f0000"


@dataclass(frozen=True)
class Rendered:
    text: str
    spans: Sequence[Span]
    notices: list[RowWarning] = field(default_factory=list)
    rest_weight: float = 0.0
    """In the loss, of what is in no span."""


class Renderer:
    def __init__(
        self,
        template: ChatTemplate,
        *,
        end_texts: frozenset[str],
        added_texts: set[str],
        reasoning: Reasoning = "auto",
    ) -> None:
        """`end_texts`: what ends a generation; `added_texts`: what the tokenizer never splits (worker.rows.tokenizer);
        `reasoning`: whose is rendered and learnt, "auto" for what the template shows."""
        self.template = template
        self.reasoning = reasoning
        self.end_texts = end_texts
        self.generation_prompt = self._probe_generation_prompt()
        self.after_user = self._probe_after_user()
        self.shows_reasoning = self._probe_reasoning()
        self.turn_ends = self._probe_end_of_turn(added_texts)
        """Texts that the template writes after an answer, as far as they end it."""
        ends = sorted(end_texts | self.turn_ends, key=len, reverse=True)
        self.end_of_turn = re.compile(r"\s*(?:" + "|".join(map(re.escape, ends)) + ")") if ends else None

    def render_given(self, conversation: Conversation, *, add_generation_prompt: bool) -> Rendered:
        """A conversation that is only read."""
        text, _ = self._plain(conversation, add_generation_prompt)
        return Rendered(text, [])

    def render(
        self, conversation: Conversation, train_on: Literal["all", "last"] = "all", rest_weight: float = 0.0
    ) -> Rendered:
        asked = chosen(conversation, self.reasoning, take_apart=self.shows_reasoning)
        part, drawn = self._drawn(replace(conversation, messages=asked))
        if self.reasoning in ("keep", "last") and (dropped := drawn.without_reasoning()):
            bare = [apart(each) if at in dropped else each for at, each in enumerate(asked)]
            part, drawn = self._drawn(replace(conversation, messages=bare))
            drawn = keep_reasoning(drawn, part)
        weights = _weights(conversation, train_on)
        learnt = [turn for turn in drawn.turns if weights[turn.message]]
        notices = list(_left_out(drawn))
        if not all(turn.ended for turn in learnt):
            notices.append(
                RowWarning("no_end_of_turn", "the chat template writes no end-of-turn token after an answer")
            )
        spans = [Span(turn.start, turn.end, weights[turn.message]) for turn in learnt]
        return Rendered(drawn.text, spans, notices, rest_weight)

    def _drawn(self, conversation: Conversation) -> tuple["_Part", RenderedTurns]:
        plain, messages = self._plain(conversation)
        part = _Part(self, messages, conversation.tools, Sentinels.absent_from(plain, messages))
        return part, part.draw(plain, messages)

    def _plain(self, conversation: Conversation, add_generation_prompt: bool = False) -> tuple[str, Messages]:
        """The rendering that is to be learnt, and the messages in the shape that the template took."""
        failures, tools = [], conversation.tools
        for messages in _variants(conversation.messages):
            try:
                text = self.template.render(messages, tools, add_generation_prompt=add_generation_prompt)
            except TemplateFailure as failure:
                failures.append(failure)
                continue
            if tools and self.attempt(messages, None, add_generation_prompt=add_generation_prompt) == text:
                raise RowError(
                    "has tools, which the base model's chat template does not show to the model",
                    code="tools_not_supported",
                )
            return text, messages
        if len(failures) > 1:
            raise RowError(
                f"calls tools, which the base model's chat template refuses: {failures[-1]}", code="tools_not_supported"
            )
        raise RowError(f"is refused by the base model's chat template: {failures[0]}", code="template_refuses")

    def attempt(self, messages: Messages, tools: Any, **options: Any) -> str | None:
        try:
            return self.template.render(messages, tools, **options)
        except TemplateFailure:
            return None

    def _probe_generation_prompt(self) -> str:
        question = [{"role": "user", "content": "a"}]
        bare, prompted = self.attempt(question, None), self.attempt(question, None, add_generation_prompt=True)
        if not bare or not prompted:
            return ""
        # Some templates end the text where the assistant is not asked to speak.
        for end in ("", *self.end_texts):
            if bare.endswith(end) and prompted.startswith(bare.removesuffix(end)):
                return prompted[len(bare) - len(end) :]
        return ""

    def _probe_after_user(self) -> str:
        """What stands between a user's text and the generation that answers it."""
        question = [{"role": "user", "content": f"a{PROBE}"}]
        return (self.attempt(question, None, add_generation_prompt=True) or "").rpartition(PROBE)[2]

    def _probe_reasoning(self) -> bool:
        """Whether the template shows reasoning, or does so beside a call."""
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "reasoning_content": PROBE}
        call = {"id": "call00000", "type": "function", "function": {"name": "b", "arguments": {}}}
        answers = ({"content": "b"}, {"tool_calls": [call]}, {"content": "", "tool_calls": [call]})
        return any(PROBE in (self.attempt([question, answer | each], None) or "") for each in answers)

    def _probe_end_of_turn(self, added_texts: set[str]) -> set[str]:
        """What the template writes after a last answer, and after one that is not the last."""
        added = "|".join(map(re.escape, sorted(added_texts, key=len, reverse=True))) or "(?!)"
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": f"b{PROBE}"}
        after = (self.attempt([question, answer], None) or "").partition(PROBE)[2].strip()
        run = re.search(f"(?:{added})+", after)
        ends = {after[: run.end()] if run else after}
        between = (self.attempt([question, answer, question], None) or "").partition(PROBE)[2]
        first = re.match(rf"\s*({added})", between)
        # Where nothing stands between the turns, the first token is the one that begins the next.
        if first and first.group(1) not in self.generation_prompt:
            ends.add(first.group(1))
        return ends - {""}


@dataclass(frozen=True)
class _Part:
    """Renders parts of one conversation (worker.rows.turns.Part, worker.rows.rendered.Source)."""

    renderer: Renderer
    messages: Messages
    tools: Any
    marks: Sentinels

    @property
    def shows_reasoning(self) -> bool:
        return self.renderer.shows_reasoning

    def ending_with(self, message: int) -> RenderedTurns:
        shown = self.messages[: message + 1]
        plain = self.renderer.attempt(shown, self.tools)
        if plain is None:
            raise RowError("refuses the messages before it", code="reasoning_not_kept")
        return self.draw(plain, shown)

    def draw(self, plain: str, messages: Messages) -> RenderedTurns:
        """`messages`: the first of the conversation, and `plain` what they render to."""
        renderer, marks = self.renderer, self.marks
        places = self._places(plain, messages)
        turns = AssistantSpans(plain, messages, marks, places, renderer.end_of_turn, self)
        found = (
            turns.by_template()
            if renderer.template.marks_generation(self.tools)
            else turns.by_answers(
                GenerationStarts(plain, messages, marks, places, renderer.generation_prompt, renderer.after_user, self)
            )
        )
        return RenderedTurns(plain, messages, marks, places, list(found))

    def _places(self, plain: str, messages: Messages) -> Places:
        # Marks in what others say only serve to notice what a template leaves out. Some templates look at its end.
        for everyone in (True, False):
            marked = self.renderer.attempt(
                self.marks.put(messages, everyone), self.tools, generation_marks=self.marks.generation
            )
            if marked is not None:
                text, places = self.marks.take_out(marked)
                if text == plain:
                    return places
        raise RowError(
            "cannot be learnt from: the chat template changes the answers, so that they cannot be told from the rest",
            code="answer_not_found",
        )

    def before(self, message: int, *, prompted: bool) -> str | None:
        return self.renderer.attempt(self.messages[:message], self.tools, add_generation_prompt=prompted)

    def calls_alone(self, message: int) -> tuple[int, str] | None:
        shown = self.messages[: message + 1]
        marked = self.renderer.attempt(self.marks.put(shown, everyone=False), self.tools)
        if marked is None:
            return None
        text, places = self.marks.take_out(marked)
        calls = [place for mark in self.marks.calls(message) for place in places.get(mark, [])]
        return len(calls), text[max(calls, default=len(text)) :]


def _weights(conversation: Conversation, train_on: Literal["all", "last"]) -> list[float]:
    """The weight in the loss of each message."""
    if train_on == "all":
        return conversation.weights
    last = max(index for index, message in enumerate(conversation.messages) if message["role"] == "assistant")
    if not conversation.weights[last]:
        raise RowError("has weight 0 on its last answer, the only one to train on", code="nothing_to_learn")
    return [weight if index == last else 0.0 for index, weight in enumerate(conversation.weights)]


def _left_out(drawn: RenderedTurns) -> Iterator[RowWarning]:
    """What the template drops without a word."""
    messages, marks, places = drawn.messages, drawn.marks, drawn.places
    reasoning = drawn.without_reasoning()
    others_marked = any(
        message["role"] != "assistant" and marks.closing(index) in places for index, message in enumerate(messages)
    )
    for index, message in enumerate(messages):
        opened, closed = marks.opening(index) in places, marks.closing(index) in places
        if message["role"] != "assistant":
            left_out = message["role"] if others_marked and not closed else None
        elif index in reasoning:
            left_out = "reasoning"
        elif message.get("content") and CLOSING in message["content"] and closed and not opened:
            left_out = "what stands before </think>"
        else:
            said = without_reasoning(message).get("content")
            left_out = "content" if "tool_calls" in message and said and not opened else None
        if left_out:
            yield RowWarning(
                "left_out", f"message {index + 1} ({left_out}) is left out by the chat template{_way(left_out)}"
            )


def _way(left_out: str) -> str:
    return "; 'training.reasoning' says what is kept" if left_out == "reasoning" else ""


def _variants(messages: Messages) -> Iterator[Messages]:
    """Shapes of one conversation in which templates differ: no content beside calls, or an empty one; a call's
    arguments as an object, or as text."""
    yield messages
    if any("tool_calls" in message for message in messages):
        yield [{"content": "", **message} for message in messages]
        as_text = [_with_text_arguments(message) for message in messages]
        yield as_text
        yield [{"content": "", **message} for message in as_text]


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        text = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": text}})
    return {**message, "tool_calls": calls}
