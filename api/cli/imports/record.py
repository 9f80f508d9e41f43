"""`attune import record`: ask the old models while they still answer, and keep their answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from api.cli.client import Document
from api.cli.console import print_note
from api.cli.imports.asking import Answers, Limits, Options, ask
from api.cli.imports.folder import safe_id
from api.cli.imports.jobs import ANSWERS, file_of, read_jobs
from api.cli.imports.prompts import Prompt, read_prompts
from api.cli.imports.source import Source


@dataclass(frozen=True)
class Recording:
    """The questions to the model of one job."""

    job_id: str
    answers: Answers
    prompts: Sequence[Prompt]


def recordings(folder: Path, chosen: Sequence[str] | None, prompts_file: Path | None) -> list[Recording]:
    """Return the prompts for the model of each job. Jobs without a model or without prompts are named in a note."""
    shared = None if prompts_file is None else read_prompts(prompts_file)
    found = []
    for job in read_jobs(folder, chosen):
        validation = file_of(folder, job.get("validation_file"))
        if not job.get("fine_tuned_model"):
            print_note(f"{job['id']} is {job['status']}: it has no model to ask.")
        elif shared is None and validation is None:
            print_note(f"{job['id']} has no validation file in the folder: give --prompts.")
        else:
            prompts = shared if shared is not None else read_prompts(validation) if validation else []
            found.append(Recording(job["id"], old_answers(folder, job), prompts))
    return found


def old_answers(folder: Path, job: Document) -> Answers:
    return Answers(folder / ANSWERS / f"{safe_id(job['id'])}.jsonl", job["fine_tuned_model"])


def most(found: Sequence[Recording], options: Options) -> Limits:
    """Return an upper bound of the requests and tokens that the open questions take."""
    prompts = [prompt for each in found for prompt in each.answers.open_prompts(each.prompts)]
    return Limits(requests=len(prompts), tokens=sum(options.most_tokens(prompt) for prompt in prompts))


def record(
    source: Source, found: Sequence[Recording], options: Options, limits: Limits, *, concurrency: int
) -> Document:
    """Ask the open questions, and return a report.

    Raise CommandError if the source fails; `attune import record` can then be run again.
    """
    for each in found:
        questions = [(prompt, options) for prompt in each.prompts]
        ask(source, each.answers, questions, limits, concurrency=concurrency)
    return {
        "object": "import.record",
        "source": source.base_url,
        "models": [
            {
                "job": each.job_id,
                "model": each.answers.model,
                "answers": sum(each.answers.text_of(prompt) is not None for prompt in each.prompts),
                "prompts": len(each.prompts),
                "open": len(each.answers.open_prompts(each.prompts)),
                "deleted": each.answers.model_is_gone,
            }
            for each in found
        ],
    }
