"""`attune import compare`: the recorded answers of the old models beside those of the new ones, with grades."""

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from api.cli.body import read_body
from api.cli.client import Client, Document
from api.cli.console import print_note
from api.cli.errors import CommandError, ExitCode
from api.cli.imports.asking import Answers, Limits, ask
from api.cli.imports.calls import Calls
from api.cli.imports.folder import digest_of, safe_id
from api.cli.imports.job_plans import pushed_job
from api.cli.imports.jobs import NEW_ANSWERS, read_jobs
from api.cli.imports.prompts import Prompt
from api.cli.imports.record import old_answers
from api.cli.imports.source import NotAvailable, Source

GRADE = "/fine_tuning/alpha/graders/run"
REFERENCE = "reference_answer"
"""The key of a grader's item that holds the answer of the row."""
UNLIMITED = 1 << 62

Graders = Mapping[str, Document]
Case = tuple[Prompt, Mapping[str, str | None]]
"""A prompt and {side: answer}. The sides are `old` and `new`."""


def read_graders(paths: Sequence[Path]) -> Graders:
    """Return {name: grader} for graders in JSON files. Raise CommandError for a grader without a name."""
    graders = [read_body(path) for path in paths]
    for path, grader in zip(paths, graders, strict=True):
        if not isinstance(grader.get("name"), str):
            raise CommandError(ExitCode.REFUSED, f"{path} does not hold a grader: it has no name.")
    return {grader["name"]: grader for grader in graders}


def compare(
    client: Client,
    server: Source,
    folder: Path,
    chosen: Sequence[str] | None,
    graders: Graders,
    *,
    concurrency: int,
) -> list[Document]:
    """Return a comparison for each job with recorded answers whose job here has succeeded.

    `concurrency`: number of questions, and of gradings, at the same time. Raise CommandError if a chosen job is
    unknown, or if a server fails.
    """
    grading = _Grading(server, graders, concurrency)
    found = []
    for job in read_jobs(folder, chosen):
        if not job.get("fine_tuned_model"):
            continue
        old = old_answers(folder, job)
        new_job = pushed_job(client, job["id"])
        if not old.answered():
            print_note(f"{job['id']} has no recorded answers: `attune import record` asks its model.")
        elif new_job is None or new_job["status"] != "succeeded":
            print_note(f"{job['id']}: " + (f"{new_job['id']} is {new_job['status']}." if new_job else "not pushed."))
        else:
            path = folder / NEW_ANSWERS / f"{safe_id(new_job['id'])}.jsonl"
            new = Answers(path, new_job["fine_tuned_model"], retry_errors=True)
            print_note(f"{job['id']}: asking {new.model} {len(old.answered())} prompts")
            ask(server, new, old.answered(), Limits(UNLIMITED, UNLIMITED), concurrency=concurrency)
            found.append(_comparison(job, new_job, old, new, grading))
    return found


def _comparison(job: Document, new_job: Document, old: Answers, new: Answers, grading: "_Grading") -> Document:
    prompts = [prompt for prompt, _ in old.answered()]
    rewards = grading.rewards(
        [(prompt, {"old": old.text_of(prompt), "new": new.text_of(prompt)}) for prompt in prompts]
    )
    rows: list[Document] = [
        {
            "prompt": prompt.request,
            "reference": prompt.reference,
            "old": old.text_of(prompt),
            "new": new.text_of(prompt),
            "new_error": new.error_of(prompt),
            "rewards": by_grader,
        }
        for prompt, by_grader in zip(prompts, rewards, strict=True)
    ]
    return {
        "old_job": job["id"],
        "old_model": old.model,
        "new_job": new_job["id"],
        "new_model": new.model,
        "prompts": len(rows),
        "equal": sum(row["old"] == row["new"] for row in rows),
        "rewards": {name: _means([row["rewards"][name] for row in rows]) for name in grading.names},
        "rows": rows,
    }


def _means(rewards: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the mean reward of the old and of the new answers; None for a side without rewards."""
    sides = {side: [value for each in rewards if (value := each[side]) is not None] for side in ("old", "new")}
    return {side: fmean(values) if values else None for side, values in sides.items()}


class _Grading:
    """Has answers graded by the server. Equal answers to a prompt are graded once."""

    def __init__(self, server: Source, graders: Graders, concurrency: int) -> None:
        self.names = list(graders)
        self._server, self._graders, self._concurrency = server, graders, concurrency
        self._known: dict[str, float] = {}

    def rewards(self, cases: Sequence[Case]) -> list[dict[str, dict[str, float | None]]]:
        """Return {grader: {side: reward}} of each case. A side without an answer has no reward."""
        bodies = [
            {
                name: {side: _body(grader, prompt, text) for side, text in texts.items()}
                for name, grader in self._graders.items()
            }
            for prompt, texts in cases
        ]
        self._grade([body for case in bodies for sides in case.values() for body in sides.values() if body])
        return [
            {
                name: {side: self._known[digest_of(body)] if body else None for side, body in sides.items()}
                for name, sides in case.items()
            }
            for case in bodies
        ]

    def _grade(self, bodies: Sequence[Document]) -> None:
        """Have the server grade the answers that it has not graded yet. Raise CommandError at its first failure."""
        unknown = {key: body for body in bodies if (key := digest_of(body)) not in self._known}
        waiting, calls = deque(unknown.items()), Calls[str, float]()
        try:
            while waiting or calls:
                while waiting and len(calls) < self._concurrency:
                    key, body = waiting.popleft()
                    calls.start(key, partial(self._reward, key, body))
                key, graded = calls.next()
                self._known[key] = graded.result()
        except BaseException:
            self._server.waits.stop()
            raise

    def _reward(self, key: str, body: Document) -> float:
        try:
            graded = self._server.ask(GRADE, body, idempotency_key=f"attune-import-{key}")
        except NotAvailable as refusal:
            raise CommandError(ExitCode.REFUSED, f"grader {body['grader']['name']}: {refusal.message}") from None
        return float(graded["reward"])


def _body(grader: Document, prompt: Prompt, text: str | None) -> Document | None:
    """Return the request that grades an answer; None without an answer."""
    item = {REFERENCE: prompt.reference, **prompt.item}
    return None if text is None else {"grader": grader, "model_sample": text, "item": item}
