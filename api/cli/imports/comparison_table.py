"""A comparison of old and new answers in a terminal."""

from collections import Counter
from collections.abc import Sequence

from api.cli.client import Document
from api.cli.console import out, print_note, print_table

SHORT = 60
"""Maximum number of characters of a text in a table on a terminal. Other outputs get the whole text."""


def print_comparison(jobs: Sequence[Document], graders: Sequence[str]) -> None:
    """Print a line for each prompt on stdout, and the means of each job on stderr."""
    print_table(
        ["JOB", "PROMPT", "REFERENCE", "OLD", "NEW", *graders],
        [
            [
                job["old_job"],
                *map(_shown, (_last_message(row["prompt"]), row["reference"], row["old"], row["new"])),
                *(_change(row["rewards"][name]) for name in graders),
            ]
            for job in jobs
            for row in job["rows"]
        ],
    )
    for job in jobs:
        means = "".join(f"; {name} {_change(means)}" for name, means in job["rewards"].items())
        equal = f"{job['equal']} of {job['prompts']} answers are equal"
        print_note(f"{job['old_model']} → {job['new_model']}: {equal}{means}")
        for error, count in Counter(row["new_error"] for row in job["rows"] if row["new_error"]).items():
            print_note(f"{job['new_model']} did not answer {count} prompts: {error}")


def _last_message(request: Document) -> object:
    return request["prompt"] if "prompt" in request else request["messages"][-1].get("content")


def _shown(text: object) -> str:
    shown = str(text or "-")
    return f"{shown[:SHORT]}…" if out.is_terminal and len(shown) > SHORT else shown


def _change(rewards: Document) -> str:
    return " → ".join("-" if rewards[side] is None else f"{rewards[side]:.3g}" for side in ("old", "new"))
