"""Builds array rows from examples. At this stage, an array row has the text of each of its sequences, not yet tokens,
and perhaps a label or an item (the user's whole row, for the grader to read)."""

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
from worker.rows.base_warnings import BaseModelWarnings
from worker.rows.chat_template import TEMPLATE_SECONDS, ChatTemplate, TemplateFailure
from worker.rows.errors import JobRejected
from worker.rows.labels import ClassColumn, DesirableColumn, LabelColumn, MarginColumn
from worker.rows.limits import TooSlow, time_limit
from worker.rows.reasoning import find_inline_reasoning
from worker.rows.render import Rendered, Renderer
from worker.rows.tokenize_rows import PromptCompletionText, TokenizerWrapper

ONCE = frozenset({"no_end_token", "no_end_of_turn", "no_reasoning", "unused_margin"})
"""Codes of warnings that hold for all rows of a file alike; only the first row gets them."""
ONCE_NOTE = "this is reported for the first such row only"


@dataclass(frozen=True)
class TokenizableRow:
    """One array row before it is tokenized."""

    sequences: list[Rendered | PromptCompletionText]
    """One text; for a pair, two: one with the preferred answer, then one with the rejected answer."""
    label: Label | None = None
    item: bytes | None = None
    """The row that the prompt came from, as JSON, for the grader to read."""


class LabelSpec(msgspec.Struct, forbid_unknown_fields=True):
    """The labels that a file must have: the labels of the model that the job continues or, in a validation file, the
    labels of the training file. Empty for the training file of a new model."""

    problem: Problem | None = None
    """The classification problem."""
    label_names: list[str] | None = None
    by: str = "the training file"
    """The source of the requirement, for error messages."""


@dataclass
class RowBuilder:
    """Builds the array rows of examples, for one method and one base model."""

    method: Method
    renderer: Renderer | None
    """None if the base model has no chat template."""
    reasoning: Reasoning = "auto"
    """The reasoning that is supervised; the renderer has the same setting."""
    base_warnings: BaseModelWarnings = field(default_factory=BaseModelWarnings)
    warnings: list[RowWarning] = field(default_factory=list)
    """Warnings about the current row."""
    reported: set[str] = field(default_factory=set)
    """Codes of warnings about the file's rows so far."""

    def begin_file(self) -> None:
        """Forget the warnings about the previous file."""
        self.reported.clear()

    def labels(self, format_name: str, trained: LabelSpec) -> LabelColumn | None:
        """Return the column for the labels of a file in that format, or None if it has no labels."""
        match "desirable" if self.method.splits_pairs else FORMATS[format_name].label_kind:
            case "class":
                problem = trained.problem or self.method.problem
                return ClassColumn(problem, trained.label_names, decided_by=trained.by)
            case "desirable":
                return DesirableColumn()
            case "margin":
                return MarginColumn()
            case None:
                return None

    def build(self, example: Example) -> tuple[list[TokenizableRow], list[RowWarning]]:
        """Return the array rows of the example, and the warnings about it. Raises RowError if the row is invalid, and
        JobRejected if it needs a chat template and the base model has none."""
        self.warnings = list(example.warnings)
        if isinstance(example, Pair) and example.margin is not None and not self.method.uses_margins:
            message = f"'margin' is used by method reward only; '{self.method.type}' ignores it"
            self.warnings.append(RowWarning("unused_margin", message))
        rows = list(self._rows(example))
        return rows, list(self._unreported(self.warnings))

    def _unreported(self, warnings: list[RowWarning]) -> Iterator[RowWarning]:
        """Yield the warnings, except those in ONCE that an earlier row has had."""
        for warning in warnings:
            if warning.code in ONCE and warning.code in self.reported:
                continue
            self.reported.add(warning.code)
            yield replace(warning, message=f"{warning.message}; {ONCE_NOTE}") if warning.code in ONCE else warning

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
                yield TokenizableRow([self._unsupervised(example.document, prompt=False)], example.label)
            case Prompt():
                item = msgspec.json.encode(example.item)
                yield TokenizableRow([self._unsupervised(example.prompt, prompt=True)], item=item)
            case _:
                yield TokenizableRow([self._answer(example)])

    def _answer(self, text: Text) -> Rendered | PromptCompletionText:
        text, options = self._for_base(text), self.method.row_option_values()
        rest_weight = options.get("prompt_loss_weight", 0.0)
        if isinstance(text, PromptCompletion):
            if self.reasoning in ("last", "drop") and find_inline_reasoning(text.completion):
                raise RowError(
                    "has reasoning in plain text, but 'training.reasoning' removes reasoning from conversations only; "
                    "omit that field, or remove the reasoning from the row",
                    code="reasoning_in_text",
                )
            self.warnings += self.base_warnings.for_plain_text()
            return PromptCompletionText(text.prompt, text.completion, prompt_weight=rest_weight)
        renderer = self._require_renderer()
        rendered = renderer.render(text, options.get("train_on", "all"), rest_weight)
        self.warnings += [*rendered.warnings, *self.base_warnings.for_conversation(text, renderer)]
        return rendered

    def _unsupervised(self, text: Text, *, prompt: bool) -> Rendered | PromptCompletionText:
        text = self._for_base(text)
        if isinstance(text, PromptCompletion):
            return PromptCompletionText(text.prompt, weight=0.0, append_end=False, with_special_tokens=not prompt)
        return self._require_renderer().render_unsupervised(text, add_generation_prompt=prompt)

    def _for_base(self, text: Text) -> Conversation | PromptCompletion:
        if isinstance(text, ChatOrText):
            return text.plain if self.renderer is None else text.conversation
        return text

    def _require_renderer(self) -> Renderer:
        if self.renderer is None:
            message = "The base model has no chat template, so it cannot be trained on chat messages. "
            message += "Choose a base model with a chat template, or write the rows as plain text."
            raise JobRejected(message, code="no_chat_template", param="model", reason=FailureReason.INVALID_RECIPE)
        return self.renderer


def load_builder(
    base: Path, method: Method, tokens: TokenizerWrapper, reasoning: Reasoning, rendered_at: float | None = None
) -> RowBuilder:
    """Return the builder of rows for the base model in the folder. Raises JobRejected if its chat template is
    unusable. `rendered_at`: the time that the template writes, in Unix time; None: now."""
    renderer = load_renderer(base, tokens, reasoning, rendered_at)
    return RowBuilder(method, renderer, reasoning=reasoning, base_warnings=BaseModelWarnings(tokens))


def load_renderer(
    base: Path, tokens: TokenizerWrapper, reasoning: Reasoning = "auto", rendered_at: float | None = None
) -> Renderer | None:
    """Return the renderer, or None for a base model without a chat template. Raises JobRejected if the template is
    unusable."""
    try:
        with time_limit(TEMPLATE_SECONDS):
            template = ChatTemplate.load(base)
            if template is None:
                return None
            return Renderer(
                template,
                end_texts=tokens.end_texts,
                added_texts=tokens.added_texts(),
                reasoning=reasoning,
                rendered_at=rendered_at,
            )
    except (TemplateFailure, TooSlow) as failure:
        message = f"The base model's chat template cannot be used: {failure or 'it takes too long'}"
        raise JobRejected(
            message, code="unusable_chat_template", param="model", reason=FailureReason.INVALID_RECIPE
        ) from None
