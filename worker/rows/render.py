"""Rendering of a conversation to a text and its supervised spans.

Either the template marks the assistant's text ({% generation %}), or sentinels, unused characters
(worker.rows.sentinels), are put around the answers and found again in the rendered text. With the sentinels removed,
that text must equal the plain rendering; if it does not, the row is refused.

A span begins where the model's generation would begin, after the text that `add_generation_prompt` adds, and ends with
the end of turn.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from api.spec.formats import Conversation, JsonObject, Message, Messages, RowError, RowWarning
from api.spec.recipe import Reasoning
from worker.rows.chat_template import ChatTemplate, TemplateFailure
from worker.rows.generation_starts import GenerationStarts
from worker.rows.reasoning import CLOSING, select_reasoning, separate_reasoning, without_reasoning
from worker.rows.rendered import RenderedTurns, keep_reasoning
from worker.rows.sentinels import Positions, Sentinels
from worker.rows.skeleton import Skeletons
from worker.rows.spans import Span
from worker.rows.turns import AssistantSpans

PROBE = "\U000f0000"


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation."""

    text: str
    spans: Sequence[Span]
    warnings: list[RowWarning] = field(default_factory=list)
    rest_weight: float = 0.0
    """The loss weight of text outside all spans."""


class Renderer:
    """Renders conversations with one chat template."""

    def __init__(
        self,
        template: ChatTemplate,
        *,
        end_texts: frozenset[str],
        added_texts: set[str],
        reasoning: Reasoning = "auto",
        rendered_at: float | None = None,
    ) -> None:
        """`end_texts`: texts of tokens that end a generation; `added_texts`: texts that the tokenizer never splits
        (worker.rows.tokenize_rows); `reasoning`: which reasoning is rendered and supervised, "auto" for what the
        template shows; `rendered_at`: the time that the template writes, in Unix time, None for now."""
        # The time is fixed, because midnight may lie between two renderings of a row, which must be equal.
        self.template = template.at(datetime.fromtimestamp(time.time() if rendered_at is None else rendered_at))
        self.skeletons = Skeletons(self.template)
        self.reasoning = reasoning
        self.end_texts = end_texts
        self.generation_prompt = self._probe_generation_prompt()
        self.after_user = self._probe_after_user()
        self.shows_reasoning = self._probe_reasoning()
        self.turn_ends = self._probe_end_of_turn(added_texts)
        """Texts with which the template ends an answer."""
        ends = sorted(end_texts | self.turn_ends, key=len, reverse=True)
        self.end_of_turn = re.compile(r"\s*(?:" + "|".join(map(re.escape, ends)) + ")") if ends else None

    def render_unsupervised(self, conversation: Conversation, *, add_generation_prompt: bool) -> Rendered:
        """Return a conversation without supervised spans. Raises RowError."""
        text, _ = self._plain(conversation, add_generation_prompt)
        return Rendered(text, [])

    def render(
        self, conversation: Conversation, train_on: Literal["all", "last"] = "all", rest_weight: float = 0.0
    ) -> Rendered:
        """Return a conversation with its supervised spans. Raises RowError.

        `train_on`: supervise all answers, or only the last.
        """
        messages = select_reasoning(conversation, self.reasoning, separate=self.shows_reasoning)
        source, rendered = self._render_turns(replace(conversation, messages=messages))
        if self.reasoning in ("keep", "last") and (dropped := rendered.missing_reasoning()):
            bare = [separate_reasoning(message) if at in dropped else message for at, message in enumerate(messages)]
            source, rendered = self._render_turns(replace(conversation, messages=bare))
            rendered = keep_reasoning(rendered, source)
        weights = _weights(conversation, train_on)
        supervised = [turn for turn in rendered.turns if weights[turn.message]]
        warnings = list(_left_out(rendered))
        if not all(turn.ended for turn in supervised):
            warnings.append(
                RowWarning("no_end_of_turn", "the chat template writes no end-of-turn token after an answer")
            )
        spans = [Span(turn.start, turn.end, weights[turn.message]) for turn in supervised]
        return Rendered(rendered.text, spans, warnings, rest_weight)

    def _render_turns(self, conversation: Conversation) -> tuple["_ConversationRenderer", RenderedTurns]:
        filled = self.skeletons.fill(conversation.messages) if conversation.tools is None else None
        plain, messages = (filled[0], conversation.messages) if filled else self._plain(conversation)
        sentinels = Sentinels.absent_from(plain, messages)
        source = _ConversationRenderer(self, messages, conversation.tools, sentinels)
        if filled is None:
            return source, source.find_turns(plain, messages)
        return source, source.locate_turns(plain, messages, sentinels.positions(filled[1]))

    def _plain(self, conversation: Conversation, add_generation_prompt: bool = False) -> tuple[str, Messages]:
        """Return the rendering without sentinels, and the messages in the form that the template accepted. Raises
        RowError if the template accepts no form of the messages, or leaves their tools out."""
        failures, tools = [], conversation.tools
        for messages in _variants(conversation.messages):
            try:
                text = self.template.render(messages, tools, add_generation_prompt=add_generation_prompt)
            except TemplateFailure as failure:
                failures.append(failure)
                continue
            if tools and self.attempt(messages, None, add_generation_prompt=add_generation_prompt) == text:
                raise RowError(
                    "has tools, which the base model's chat template leaves out",
                    code="tools_not_supported",
                )
            return text, messages
        if len(failures) > 1:
            raise RowError(
                f"has tool calls, which the base model's chat template refuses: {failures[-1]}",
                code="tools_not_supported",
            )
        message = f"cannot be rendered with the base model's chat template: {failures[0]}"
        raise RowError(message, code="template_refuses")

    def attempt(
        self,
        messages: Messages,
        tools: list[JsonObject] | None,
        *,
        add_generation_prompt: bool = False,
        generation_marks: tuple[str, str] = ("", ""),
    ) -> str | None:
        """Return the rendered messages, or None if the template refuses them."""
        try:
            return self.template.render(
                messages, tools, add_generation_prompt=add_generation_prompt, generation_marks=generation_marks
            )
        except TemplateFailure:
            return None

    def _probe_generation_prompt(self) -> str:
        """Return the text that the template adds before the assistant's turn; empty if unknown."""
        question = [{"role": "user", "content": "a"}]
        bare, prompted = self.attempt(question, None), self.attempt(question, None, add_generation_prompt=True)
        if not bare or not prompted:
            return ""
        # Some templates write an end token if no generation prompt is added.
        for end in ("", *self.end_texts):
            if bare.endswith(end) and prompted.startswith(bare.removesuffix(end)):
                return prompted[len(bare) - len(end) :]
        return ""

    def _probe_after_user(self) -> str:
        """Return the text between a user's message and the answer's generation."""
        question = [{"role": "user", "content": f"a{PROBE}"}]
        return (self.attempt(question, None, add_generation_prompt=True) or "").rpartition(PROBE)[2]

    def _probe_reasoning(self) -> bool:
        """Return whether the template shows the reasoning of an answer, even if only beside a tool call."""
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "reasoning_content": PROBE}
        call = {"id": "call00000", "type": "function", "function": {"name": "b", "arguments": {}}}
        answers = ({"content": "b"}, {"tool_calls": [call]}, {"content": "", "tool_calls": [call]})
        return any(PROBE in (self.attempt([question, answer | form], None) or "") for form in answers)

    def _probe_end_of_turn(self, added_texts: set[str]) -> set[str]:
        """Return the texts with which the template ends an answer: the last message, and an answer before another
        message."""
        added = "|".join(map(re.escape, sorted(added_texts, key=len, reverse=True))) or "(?!)"
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": f"b{PROBE}"}
        after = (self.attempt([question, answer], None) or "").partition(PROBE)[2].strip()
        run = re.search(f"(?:{added})+", after)
        ends = {after[: run.end()] if run else after}
        between = (self.attempt([question, answer, question], None) or "").partition(PROBE)[2]
        first = re.match(rf"\s*({added})", between)
        # If the template writes nothing between turns, the first token there begins the next turn.
        if first and first.group(1) not in self.generation_prompt:
            ends.add(first.group(1))
        return ends - {""}


@dataclass(frozen=True)
class _ConversationRenderer:
    """Renders parts of one conversation, for worker.rows.turns and worker.rows.rendered."""

    renderer: Renderer
    messages: Messages
    tools: list[JsonObject] | None
    sentinels: Sentinels

    @property
    def shows_reasoning(self) -> bool:
        return self.renderer.shows_reasoning

    def render_through(self, message: int) -> RenderedTurns:
        shown = self.messages[: message + 1]
        plain = self.renderer.attempt(shown, self.tools)
        if plain is None:
            raise RowError("refuses the conversation up to this message", code="reasoning_not_kept")
        return self.find_turns(plain, shown)

    def find_turns(self, plain: str, messages: Messages) -> RenderedTurns:
        """Return the assistant's turns. `messages`: the conversation's first messages; `plain`: their rendering."""
        return self.locate_turns(plain, messages, self._positions(plain, messages))

    def locate_turns(self, plain: str, messages: Messages, positions: Positions) -> RenderedTurns:
        """Return the assistant's turns between sentinels whose positions are known."""
        renderer, sentinels = self.renderer, self.sentinels
        turns = AssistantSpans(
            plain, messages, sentinels, positions, renderer.end_of_turn, renderer.generation_prompt, self
        )
        located = (
            turns.from_generation_tags()
            if renderer.template.marks_generation(self.tools)
            else turns.from_sentinels(
                GenerationStarts(
                    plain, messages, sentinels, positions, renderer.generation_prompt, renderer.after_user, self
                )
            )
        )
        return RenderedTurns(plain, messages, sentinels, positions, list(located))

    def _positions(self, plain: str, messages: Messages) -> Positions:
        # The second try has sentinels only in the assistant's messages, because some templates test how the contents
        # of other roles end.
        for all_roles in (True, False):
            marked = self.renderer.attempt(
                self.sentinels.insert(messages, all_roles), self.tools, generation_marks=self.sentinels.generation
            )
            if marked is not None:
                text, positions = self.sentinels.remove(marked)
                if text == plain:
                    return positions
        raise RowError(
            "cannot be trained on: the chat template changes the answers, so they cannot be found in the rendered text",
            code="answer_not_found",
        )

    def render_prefix(self, message: int, *, prompted: bool) -> str | None:
        return self.renderer.attempt(self.messages[:message], self.tools, add_generation_prompt=prompted)

    def render_tail(self, message: int, *, prompted: bool) -> str | None:
        shown = self.sentinels.insert(self.messages[:message], all_roles=True)
        marked = self.renderer.attempt(shown, self.tools, add_generation_prompt=prompted)
        text, positions = self.sentinels.remove(marked or "")
        ends = positions.get(self.sentinels.text_end(message - 1))
        return text[ends[-1] :] if ends else None

    def calls_as_last_message(self, message: int) -> tuple[int, str] | None:
        shown = self.messages[: message + 1]
        marked = self.renderer.attempt(self.sentinels.insert(shown, all_roles=False), self.tools)
        if marked is None:
            return None
        text, positions = self.sentinels.remove(marked)
        calls = [position for sentinel in self.sentinels.calls(message) for position in positions.get(sentinel, [])]
        return len(calls), text[max(calls, default=len(text)) :]


def _weights(conversation: Conversation, train_on: Literal["all", "last"]) -> list[float]:
    """Return the loss weight of each message. Raises RowError if only the last answer is trained on and has weight
    0."""
    if train_on == "all":
        return conversation.weights
    last = max(index for index, message in enumerate(conversation.messages) if message["role"] == "assistant")
    if not conversation.weights[last]:
        raise RowError("has weight 0 on its last answer, the only one that is trained on", code="nothing_to_learn")
    return [weight if index == last else 0.0 for index, weight in enumerate(conversation.weights)]


def _left_out(rendered: RenderedTurns) -> Iterator[RowWarning]:
    """Yield a warning for each part of a message that the template drops."""
    messages, sentinels, positions = rendered.messages, rendered.sentinels, rendered.positions
    reasoning = rendered.missing_reasoning()
    others_marked = any(
        message["role"] != "assistant" and sentinels.text_end(index) in positions
        for index, message in enumerate(messages)
    )
    for index, message in enumerate(messages):
        opened, closed = sentinels.text_start(index) in positions, sentinels.text_end(index) in positions
        if message["role"] != "assistant":
            left_out = message["role"] if others_marked and not closed else None
        elif index in reasoning:
            left_out = "reasoning"
        elif message.get("content") and CLOSING in message["content"] and closed and not opened:
            left_out = "the text before </think>"
        else:
            content = without_reasoning(message).get("content")
            left_out = "content" if "tool_calls" in message and content and not opened else None
        if left_out:
            yield RowWarning(
                "left_out", f"message {index + 1} ({left_out}) is left out by the chat template{_remedy(left_out)}"
            )


def _remedy(left_out: str) -> str:
    return "; 'training.reasoning' sets what is kept" if left_out == "reasoning" else ""


def _variants(messages: Messages) -> Iterator[Messages]:
    """Yield the forms in which templates may expect a conversation with tool calls. Beside the calls, there may be no
    content or an empty one. The arguments of the calls may be an object or text. Their ids may have to be short."""
    yield messages
    if any("tool_calls" in message for message in messages):
        yield [{"content": "", **message} for message in messages]
        with_texts = [_with_text_arguments(message) for message in messages]
        yield with_texts
        yield [{"content": "", **message} for message in with_texts]
        yield [{"content": "", **message} for message in _with_short_ids(messages)]


def _with_short_ids(messages: Messages) -> Messages:
    """Return the messages with ids of nine letters and digits. Templates of Mistral 7B v0.3 and Nemo refuse all others,
    such as OpenAI's."""
    ids = dict.fromkeys(call["id"] for message in messages for call in message.get("tool_calls", ()))
    short = {call_id: f"call{number:05d}" for number, call_id in enumerate(ids, start=1)}
    renamed = [dict(message) for message in messages]
    for message in renamed:
        if "tool_calls" in message:
            message["tool_calls"] = [{**call, "id": short[call["id"]]} for call in message["tool_calls"]]
        if message.get("tool_call_id") in short:
            message["tool_call_id"] = short[message["tool_call_id"]]
    return renamed


def _with_text_arguments(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        text = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": text}})
    return {**message, "tool_calls": calls}
