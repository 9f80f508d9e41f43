"""Questions to a model, within limits, and its answers in a file. No question with a stored answer is asked again."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from api.cli.client import Document
from api.cli.errors import CommandError, ExitCode
from api.cli.imports.folder import Journal, digest_of
from api.cli.imports.prompts import CHAT, Prompt, message_text
from api.cli.imports.source import NotAvailable, Source

TOP_LOGPROBS = 5
OPTIONAL = {"logprobs": ("logprobs", "top_logprobs"), "temperature": ("temperature",)}
"""{word in a refusal: optional fields}. If a model refuses a question with a message that has the word, the question is
asked again without these fields."""
MESSAGE_OVERHEAD = 64
"""Upper bound of the tokens of a chat template beside the texts of a short conversation."""


@dataclass
class Limits:
    """The requests and tokens that may still be spent."""

    requests: int
    tokens: int
    interval_s: float = 0.0
    """Minimum time between two requests."""
    sleep: Callable[[float], None] = time.sleep
    _next_at: float = 0.0

    def lowered(self, requests: int | None, tokens: int | None) -> "Limits":
        """Return the lower of these limits and the given ones, each by itself."""
        return Limits(
            self.requests if requests is None else min(requests, self.requests),
            self.tokens if tokens is None else min(tokens, self.tokens),
        )

    def allow(self, tokens: int) -> bool:
        return self.requests > 0 and tokens <= self.tokens

    def wait_turn(self) -> None:
        """Wait until the next request may be sent."""
        delay_s = self._next_at - time.monotonic()
        if delay_s > 0:
            self.sleep(delay_s)
        self._next_at = time.monotonic() + self.interval_s


@dataclass(frozen=True)
class Options:
    max_tokens: int
    """Maximum length of an answer."""
    temperature: float

    def body(self, model: str, prompt: Prompt) -> Document:
        body = {"model": model, **prompt.request, "temperature": self.temperature}
        if prompt.path == CHAT:
            return body | {"max_completion_tokens": self.max_tokens, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body | {"max_tokens": self.max_tokens, "logprobs": TOP_LOGPROBS}

    def most_tokens(self, prompt: Prompt) -> int:
        """Return an upper bound of the tokens of a question and its answer. A token has at least one byte."""
        return len(str(prompt.request).encode()) + MESSAGE_OVERHEAD + self.max_tokens


class Answers:
    """The answers of one model, by the key of their prompt.

    `retry_errors`: ask again what the model refused to answer earlier."""

    def __init__(self, path: Path, model: str, *, retry_errors: bool = False) -> None:
        self.model = model
        self._journal = Journal(path)
        # A missing model is asked for again: perhaps another project's key was used.
        kept = (each for each in self._journal.entries if "response" in each or not (retry_errors or _is_gone(each)))
        self._by_key = {entry["key"]: entry for entry in kept}

    def open_prompts(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Return the prompts without an answer, each once; none if this command has found that the model is missing."""
        if self.model_is_gone:
            return []
        unique = {prompt.key(self.model): prompt for prompt in prompts}
        return [prompt for key, prompt in unique.items() if key not in self._by_key]

    @property
    def model_is_gone(self) -> bool:
        return any(map(_is_gone, self._by_key.values()))

    def answered(self) -> list[tuple[Prompt, Options]]:
        """Return the prompts with an answer, and the options with which they were asked."""
        return [
            (Prompt(entry["path"], entry["request"], entry["reference"], entry["item"]), Options(**entry["options"]))
            for entry in self._by_key.values()
            if "response" in entry
        ]

    def text_of(self, prompt: Prompt) -> str | None:
        """Return the text of the answer; None without one."""
        entry = self._by_key.get(prompt.key(self.model))
        return None if entry is None or "response" not in entry else text_of(entry["response"])

    def error_of(self, prompt: Prompt) -> str | None:
        """Return why the model refused to answer; None if it did not."""
        error = self._by_key.get(prompt.key(self.model), {}).get("error")
        return None if error is None else str(error["message"])

    def keep(self, prompt: Prompt, options: Options, **outcome: object) -> None:
        entry = {"key": prompt.key(self.model), "model": self.model, "options": asdict(options), **asdict(prompt)}
        entry |= outcome
        self._journal.append(entry)
        self._by_key[entry["key"]] = entry

    def close(self) -> None:
        self._journal.close()


def ask(source: Source, answers: Answers, prompts: Sequence[Prompt], options: Options, limits: Limits) -> None:
    """Ask the questions that have no answer, and keep each answer at once, until a limit is reached.

    Raise CommandError if the source fails.
    """
    refused: set[str] = set()
    for prompt in answers.open_prompts(prompts):
        if not limits.allow(options.most_tokens(prompt)):
            return
        limits.requests -= 1  # refused questions count
        try:
            response = _ask_one(source, options.body(answers.model, prompt), prompt, refused, limits)
        except NotAvailable as refusal:
            if refusal.status == 403:
                raise CommandError(ExitCode.NOT_AUTHORIZED, f"{answers.model}: {refusal.message}") from None
            answers.keep(prompt, options, error={"status": refusal.status, "message": refusal.message})
            if answers.model_is_gone:
                return
        else:
            limits.tokens -= int((response.get("usage") or {}).get("total_tokens") or options.most_tokens(prompt))
            answers.keep(prompt, options, response=response)


def _ask_one(source: Source, body: Document, prompt: Prompt, refused: set[str], limits: Limits) -> Document:
    """Ask a question and return the response. If the model refuses optional fields, ask again without them.

    `refused` collects the refused fields' keys in OPTIONAL. Raise NotAvailable if the model refuses the question.
    """
    while True:
        without = {name for word in refused for name in OPTIONAL[word]}
        body = {name: value for name, value in body.items() if name not in without}
        limits.wait_turn()
        try:
            return source.ask(prompt.path, body, idempotency_key=f"attune-import-{digest_of(body)}")
        except NotAvailable as refusal:
            word = next((word for word in OPTIONAL.keys() - refused if word in refusal.message), None)
            if refusal.status != 400 or word is None:
                raise
            refused.add(word)


def _is_gone(entry: Document) -> bool:
    """Return whether the source responded that the model does not exist."""
    return (entry.get("error") or {}).get("status") in {404, 410}


def text_of(response: Document) -> str:
    """Return the text of the first choice of a response."""
    choices = response.get("choices") or [{}]
    return message_text(choices[0].get("message") or {}) or str(choices[0].get("text") or "")
