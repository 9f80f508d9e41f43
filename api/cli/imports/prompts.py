"""The prompts in a file of training rows: each row without the answer that a model should learn from it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.cli.client import Document, open_input
from api.cli.errors import CommandError, ExitCode
from api.cli.imports.folder import digest_of

CHAT, COMPLETION = "/chat/completions", "/completions"
WITH_MESSAGES = ("tools", "parallel_tool_calls")
"""Keys of a row that are copied into the request together with the messages."""
MESSAGE_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "function_call"}
"""Keys that a message in a request may have. Messages of training rows may have more, such as `weight`."""


@dataclass(frozen=True)
class Prompt:
    path: str
    """The endpoint that answers the prompt."""
    request: Document
    """The part of a request that is the prompt."""
    reference: str | None
    """The row's own answer, if it has one."""
    item: Document
    """The row, which graders read."""

    def key(self, model: str) -> str:
        """Return a hash that identifies the question of this prompt to this model."""
        return digest_of([model, self.path, self.request])


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a file of JSON lines. Raise CommandError, with the line, for a row without a prompt."""
    prompts = []
    with open_input(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    prompts.append(prompt_of(json.loads(line.decode("utf-8-sig"))))
                except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                    raise CommandError(
                        ExitCode.REFUSED, f"{path}, line {number}: a row needs messages, input or prompt."
                    ) from None
    return prompts


def prompt_of(row: Document) -> Prompt:
    """Return the prompt of a row. Its format is chat, preference, prompt only, or prompt and completion."""
    if "input" in row:
        asked = row["input"]
        better = row.get("preferred_output") or [{}]
        return Prompt(CHAT, _chat(asked, asked["messages"]), message_text(better[-1]), row)
    if "messages" in row:
        messages, reference = list(row["messages"]), None
        while messages and messages[-1]["role"] == "assistant":
            reference = message_text(messages.pop())
        return Prompt(CHAT, _chat(row, messages), reference, row)
    if "completion" in row:
        return Prompt(COMPLETION, {"prompt": str(row["prompt"])}, str(row["completion"]), row)
    return Prompt(CHAT, {"messages": [{"role": "user", "content": str(row["prompt"])}]}, None, row)


def message_text(message: Mapping[str, Any]) -> str | None:
    """Return the text of an assistant's message. If the message only calls tools, return the calls as JSON, without
    their ids."""
    calls = message.get("tool_calls")
    if message.get("content") or not calls:
        return message.get("content")
    return json.dumps([call.get("function") for call in calls], ensure_ascii=False)


def _chat(row: Mapping[str, Any], messages: Iterable[Mapping[str, Any]]) -> Document:
    asked = [{name: value for name, value in message.items() if name in MESSAGE_KEYS} for message in messages]
    if not asked:
        raise ValueError("no message before the answer")
    return {"messages": asked} | {name: row[name] for name in WITH_MESSAGES if row.get(name) is not None}
