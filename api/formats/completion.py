"""Prompt and completion pairs: `{"prompt": …, "completion": …}`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.base import Format, Notice, Passage, Row, required_string


class Completion(Format):
    """The prompt is given as it is, without a template; the completion and the end of text after it are learnt."""

    name: ClassVar[str] = "completion"
    title: ClassVar[str] = "fine-tune-completion"
    summary: ClassVar[str] = "Prompt and completion pairs, without a chat template."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"prompt", "completion"}),)
    example: ClassVar[Mapping[str, Any]] = {"prompt": "The capital of France is", "completion": " Paris."}

    def parse(self, row: Row) -> Passage:
        prompt, completion = required_string(row, "prompt"), required_string(row, "completion")
        notices = self.unknown_keys(row)
        if not completion.strip():
            notices.append(Notice("empty_answer", "'completion' is empty: the model learns to say nothing here"))
        return Passage(prompt, completion, notices)
