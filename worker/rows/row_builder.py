"""What an example becomes before it is tokenised: the texts of its sequences, its label, its item."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from api.spec.formats import (
    FORMATS,
    ChatOrText,
    ClassificationExample,
    Conversation,
    Example,
    Label,
    Pair,
    Prompt,
    PromptCompletion,
    RowError,
    RowWarning,
    Text,
    Unpaired,
)
from api.spec.lifecycle import FailureReason
from api.spec.methods import Method
from api.spec.methods.base import Problem
from api.spec.recipe import Reasoning
from worker.rows.chat_template import ChatTemplate, TemplateFailure
from worker.rows.errors import JobRejected
from worker.rows.labels import Classes, Desirable, Labels, Margins
from worker.rows.limits import TooSlow, time_limit
from worker.rows.reasoning import typed_in
from worker.rows.render import Rendered, Renderer
from worker.rows.tokenizer import PromptCompletionText, TokenizerWrapper
from worker.rows.warnings import RowWarnings

TEMPLATE_SECONDS = 5
ONCE = frozenset({"no_end_token", "no_end_of_turn", "no_reasoning", "unused_margin"})
"""Codes of notices that hold for the rows of a file alike: each is said of the first."""
OTHERS = "this is said once, of the first such row"


@dataclass(frozen=True)
class TokenizableRow:
    """One row of arrays to be."""

    sequences: list[Rendered | PromptCompletionText]
    label: Label | None = None
    item: bytes | None = None


class LabelSpec(msgspec.Struct, forbid_unknown_fields=True):
    """What a file's labels have to be: decided by the model that the job continues, or for the validation file by the
    training file; nothing, while a training file begins anew."""

    problem: Problem | None = None
    """Of a classification."""
    label_names: list[str] | None = None
    by: str = "the training file"
    """Who decided it, in the words of a refusal."""


@dataclass
class RowBuilder:
    method: Method
    renderer: Renderer | None
    """None where the base model has no chat template."""
    reasoning: Reasoning = "auto"
    """Whose reasoning is learnt in conversations, as the renderer has it."""
    doubts: RowWarnings = field(default_factory=RowWarnings)
    """What the base's tokenizer makes doubtful."""
    notices: list[RowWarning] = field(default_factory=list)
    """What the author of the present row should know."""
    told: set[str] = field(default_factory=set)
    """Codes of what was said of the file's rows so far."""

    def begin_file(self) -> None:
        """What is to be said once of a file may be said again."""
        self.told.clear()

    def labels(self, format_name: str, trained: LabelSpec) -> Labels | None:
        """Where the labels of a file of that format go."""
        match "desirable" if self.method.splits_pairs else FORMATS[format_name].label_kind:
            case "class":
                problem = trained.problem or self.method.problem
                return Classes(problem, trained.label_names, decided_by=trained.by)
            case "desirable":
                return Desirable()
            case "margin":
                return Margins()
            case None:
                return None

    def compose(self, example: Example) -> tuple[list[TokenizableRow], list[RowWarning]]:
        """The rows, and what their author should know; RowError, Invalid."""
        self.notices = list(example.notices)
        if isinstance(example, Pair) and example.margin is not None and not self.method.uses_margins:
            message = f"'margin' is learnt from by method reward alone, and '{self.method.type}' leaves it out"
            self.notices.append(RowWarning("unused_margin", message))
        rows = list(self._rows(example))
        return rows, list(self._not_told(self.notices))

    def _not_told(self, notices: list[RowWarning]) -> Iterator[RowWarning]:
        """The notices without those of the base and the method that an earlier row has had: they hold for all."""
        for notice in notices:
            if notice.code in ONCE and notice.code in self.told:
                continue
            self.told.add(notice.code)
            yield replace(notice, message=f"{notice.message}; {OTHERS}") if notice.code in ONCE else notice

    def _rows(self, example: Example) -> Iterator[TokenizableRow]:
        match example:
            case Pair() if self.method.splits_pairs:
                yield TokenizableRow([self._answer(example.chosen)], 1.0)
                yield TokenizableRow([self._answer(example.rejected)], 0.0)
            case Pair():
                yield TokenizableRow([self._answer(example.chosen), self._answer(example.rejected)], example.margin)
            case Unpaired():
                yield TokenizableRow([self._answer(example.answer)], float(example.desirable))
            case ClassificationExample():
                yield TokenizableRow([self._given(example.document, prompt=False)], example.label)
            case Prompt():
                item = msgspec.json.encode(example.item)
                yield TokenizableRow([self._given(example.given, prompt=True)], item=item)
            case _:
                yield TokenizableRow([self._answer(example)])

    def _answer(self, text: Text) -> Rendered | PromptCompletionText:
        text, options = self._shown(text), self.method.row_option_values()
        rest_weight = options.get("prompt_loss_weight", 0.0)
        if isinstance(text, PromptCompletion):
            if self.reasoning in ("last", "drop") and typed_in(text.learnt):
                raise RowError(
                    "has reasoning in plain text, and 'training.reasoning' takes it out of conversations only; leave "
                    "the field out, or take the reasoning out of the row",
                    code="reasoning_in_text",
                )
            self.notices += self.doubts.of_passage()
            return PromptCompletionText(text.given, text.learnt, rest_weight=rest_weight)
        renderer = self._needed_renderer()
        rendered = renderer.render(text, options.get("train_on", "all"), rest_weight)
        self.notices += [*rendered.notices, *self.doubts.of_conversation(text, renderer)]
        return rendered

    def _given(self, text: Text, *, prompt: bool) -> Rendered | PromptCompletionText:
        text = self._shown(text)
        if isinstance(text, PromptCompletion):
            return PromptCompletionText(text.given, weight=0.0, ends=False, framed=not prompt)
        return self._needed_renderer().render_given(text, add_generation_prompt=prompt)

    def _shown(self, text: Text) -> Conversation | PromptCompletion:
        if isinstance(text, ChatOrText):
            return text.passage if self.renderer is None else text.conversation
        return text

    def _needed_renderer(self) -> Renderer:
        if self.renderer is None:
            message = "The base model has no chat template, so it cannot learn from chat messages. "
            message += "Choose a base model made for chat, or write the rows as plain text."
            raise JobRejected(message, code="no_chat_template", param="model", reason=FailureReason.INVALID_RECIPE)
        return self.renderer


def load_builder(base: Path, method: Method, tokens: TokenizerWrapper, reasoning: Reasoning) -> RowBuilder:
    """Return the builder of rows for the base model in the folder. Raises JobRejected."""
    renderer = load_renderer(base, tokens, reasoning)
    return RowBuilder(method, renderer, reasoning=reasoning, doubts=RowWarnings(tokens))


def load_renderer(base: Path, tokens: TokenizerWrapper, reasoning: Reasoning = "auto") -> Renderer | None:
    """None for a base model without a chat template, which is an error only where rows need one."""
    try:
        with time_limit(TEMPLATE_SECONDS):
            template = ChatTemplate.load(base)
            if template is None:
                return None
            return Renderer(template, end_texts=tokens.end_texts, added_texts=tokens.added_texts(), reasoning=reasoning)
    except (TemplateFailure, TooSlow) as failure:
        message = f"The base model's chat template cannot be used: {failure or 'it takes too long'}"
        raise JobRejected(
            message, code="unusable_chat_template", param="model", reason=FailureReason.INVALID_RECIPE
        ) from None
