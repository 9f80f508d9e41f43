"""Questions to a model, within limits, and its answers in a file. No question with a stored answer is asked again."""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from api.cli.client import Document
from api.cli.console import count_progress, print_note
from api.cli.errors import CommandError, ExitCode
from api.cli.imports.calls import Calls
from api.cli.imports.folder import Journal, digest_of
from api.cli.imports.prompts import CHAT, Prompt, message_text
from api.cli.imports.source import NotAvailable, Source
from api.cli.imports.waits import Waits

TOP_LOGPROBS = 5
OPTIONAL = {"logprobs": ("logprobs", "top_logprobs"), "temperature": ("temperature",)}
"""{word in a refusal: optional fields}. If a model refuses a question with a message that has the word, the question is
asked again without these fields."""
MESSAGE_OVERHEAD = 64
"""Upper bound of the tokens that a chat template adds to the texts of a short conversation."""
GRACE_S = 1.0
"""Seconds for which an interrupted command waits for answers that are on their way."""


@dataclass
class Limits:
    """The requests and tokens that may still be spent."""

    requests: int
    tokens: int
    interval_s: float = 0.0
    """Minimum time between two requests."""
    _next_at: float = 0.0
    _turns: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def lowered(self, requests: int | None, tokens: int | None) -> "Limits":
        """Return new limits: for requests and for tokens, the smaller of the present and the given one."""
        return Limits(
            self.requests if requests is None else min(requests, self.requests),
            self.tokens if tokens is None else min(tokens, self.tokens),
        )

    def allow(self, tokens: int) -> bool:
        return self.requests > 0 and tokens <= self.tokens

    def reserve(self, tokens: int) -> None:
        """Subtract one request and the maximum of its tokens. Refused requests count, too."""
        self.requests -= 1
        self.tokens -= tokens

    def give_back(self, tokens: int) -> None:
        """Add reserved tokens again that a request did not use."""
        self.tokens += tokens

    def wait_turn(self, waits: Waits) -> None:
        """Wait until the next request may be sent. May be called from any thread."""
        with self._turns:
            now = waits.now()
            at = max(now, self._next_at)
            self._next_at = at + self.interval_s
        if at > now:
            waits.sleep(at - now)


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
        # A missing model is asked again: the earlier command may have used the key of another project.
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


Question = tuple[Prompt, Options]


def ask(source: Source, answers: Answers, questions: Sequence[Question], limits: Limits, *, concurrency: int) -> None:
    """Ask the questions that have no answer, up to `concurrency` at the same time, until a limit is reached. Keep each
    answer when it arrives.

    The first question is asked alone, because its response shows whether the model exists, and which fields it refuses.
    Raise CommandError if the source fails, when the answers that are on their way are kept. An interruption keeps only
    those that arrive within GRACE_S.
    """
    options_of = {prompt.key(answers.model): options for prompt, options in questions}
    waiting = deque(answers.open_prompts(prompt for prompt, _ in questions))
    asking, at_once = _Asking(source, answers, limits), 1
    with count_progress(answers.model, min(len(waiting), limits.requests)) as advance:
        try:
            while True:
                while waiting and asking.running < at_once and not answers.model_is_gone:
                    options = options_of[waiting[0].key(answers.model)]
                    if not limits.allow(options.most_tokens(waiting[0])):
                        break
                    asking.start(waiting.popleft(), options)
                if not asking.running:
                    return
                asking.keep_next()
                advance()
                at_once = concurrency
        except CommandError as error:
            asking.end(f"{error.message} (Waiting for answers that are on their way; Ctrl-C drops them.)")
            raise
        except KeyboardInterrupt:
            asking.end("Interrupted. Repeated, the command asks only what has no answer yet.", timeout_s=GRACE_S)
            raise


class _Asking:
    """The requests to a model that have no answer yet."""

    def __init__(self, source: Source, answers: Answers, limits: Limits) -> None:
        self._source, self._answers, self._limits = source, answers, limits
        self._refused: set[str] = set()
        """Keys of OPTIONAL: the fields that the model has refused, which later requests leave out."""
        self._calls: Calls[Question, Document] = Calls()

    @property
    def running(self) -> int:
        return len(self._calls)

    def start(self, prompt: Prompt, options: Options) -> None:
        self._limits.reserve(options.most_tokens(prompt))
        body = options.body(self._answers.model, prompt)
        call = partial(_ask_one, self._source, body, prompt, self._refused, self._limits)
        self._calls.start((prompt, options), call)

    def keep_next(self) -> None:
        """Wait for the next response and keep it. Raise CommandError if the source fails."""
        self._keep(*self._calls.next())

    def end(self, note: str, *, timeout_s: float | None = None) -> None:
        """Send no further request, and keep the responses that arrive within `timeout_s`. If any are on their way,
        print the note first."""
        self._source.waits.stop()
        if self.running:
            print_note(note)
        for question, asked in self._calls.rest(timeout_s):
            with suppress(CommandError):
                self._keep(question, asked)

    def _keep(self, question: Question, asked: Future[Document]) -> None:
        prompt, options = question
        most = options.most_tokens(prompt)
        try:
            response = asked.result()
        except NotAvailable as refusal:
            if refusal.status == 403:
                message = f"{self._answers.model}: {refusal.message}"
                raise CommandError(ExitCode.NOT_AUTHORIZED, message) from None
            self._limits.give_back(most)
            self._answers.keep(prompt, options, error={"status": refusal.status, "message": refusal.message})
        else:
            taken = int((response.get("usage") or {}).get("total_tokens") or most)
            self._limits.give_back(most - taken)
            self._answers.keep(prompt, options, response=response)


def _ask_one(source: Source, body: Document, prompt: Prompt, refused: set[str], limits: Limits) -> Document:
    """Ask a question and return the response. If the model refuses optional fields, ask again without them.

    `refused` collects the refused fields' keys in OPTIONAL, for all questions. Raise NotAvailable if the model refuses
    the question.
    """
    while True:
        without = {name for word in tuple(refused) for name in OPTIONAL[word]}
        body = {name: value for name, value in body.items() if name not in without}
        limits.wait_turn(source.waits)
        try:
            return source.ask(prompt.path, body, idempotency_key=f"attune-import-{digest_of(body)}")
        except NotAvailable as refusal:
            sent = (word for word, names in OPTIONAL.items() if body.keys() & names)
            word = next((word for word in sent if word in refusal.message), None)
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
