"""The output of `attune evals`: an eval, a run, or two runs side by side."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from api.cli.client import Client, Document
from api.cli.console import format_time, print_error, print_fields, print_line, print_note, print_table
from api.cli.errors import ExitCode
from api.cli.listing import Columns, print_documents, time_of

EXIT_CODES = {"completed": ExitCode.OK, "failed": ExitCode.JOB_FAILED, "canceled": ExitCode.JOB_CANCELLED}
SHOWN_CHARS = 80
"""Maximum length of an answer in a table, in characters."""


def describe_run(run: Document) -> tuple[str, int, int]:
    """Return (a line that describes the run, number of its graded items, number of all its items)."""
    counts = run["result_counts"]
    done = counts["passed"] + counts["failed"] + counts["errored"]
    passed = f", {_share(counts)} passed" if done else ""
    of_all = f": {done} of {counts['total']} items graded{passed}" if counts["total"] else ""
    waits = f". {run['error']['message']}" if run["status"] == "in_progress" and run["error"]["message"] else ""
    return f"{run['status'].replace('_', ' ')}{of_all}{waits}", done, counts["total"]


def print_eval(found: Document, runs: Sequence[Document]) -> None:
    print_fields({"id": found["id"], "name": found["name"] or "-", "created_at": format_time(found["created_at"])})
    print_line("")
    print_documents(found["testing_criteria"], {"CRITERION": "name", "TYPE": "type", "RULE": _rule})
    if not runs:
        return print_note(f"No runs yet. Start one with: attune evals run {found['id']} FILE --model MODEL")
    print_line("")
    return print_documents(runs, RUNS)


def _rule(criterion: Document) -> str:
    """Return what a criterion compares, in a few words."""
    threshold = criterion.get("pass_threshold")
    parts = [
        criterion.get("operation") or criterion.get("evaluation_metric"),
        criterion.get("reference"),
        None if threshold is None else f"at least {threshold}",
        ", ".join(criterion.get("passing_labels") or []),
        criterion.get("model"),
    ]
    return " ".join(part for part in parts if part)


def print_run(run: Document, items: Sequence[Document]) -> None:
    """Print a run with its counts by criterion, and the given items."""
    counts = run["result_counts"]
    print_fields(
        {
            "id": run["id"],
            "status": run["status"],
            "model": run["model"] or "-",
            "created_at": format_time(run["created_at"]),
            "items": f"{counts['passed']} passed, {counts['failed']} failed, {counts['errored']} with an error, "
            f"of {counts['total']}",
            "report": run["report_url"],
        }
    )
    if run["error"]["message"] and run["status"] == "in_progress":
        print_note(run["error"]["message"])
    elif run["error"]["message"]:
        print_error(f"the run failed: {run['error']['message']} ({run['error']['code']})")
    if run["per_testing_criteria_results"]:
        print_line("")
        print_documents(run["per_testing_criteria_results"], CRITERIA)
    if items:
        print_line("")
        print_documents(items, {"ITEM": _number, "STATUS": "status", "DOES NOT PASS": _wrong, "ANSWER": _answer})


def _number(item: Document) -> int:
    """Return the number of the item's row, from 1, as the dashboard shows it."""
    return int(item["datasource_item_id"]) + 1


def _wrong(item: Document) -> str:
    """Return the names of the criteria that an item does not pass, or the error if the model gave no answer."""
    if item["sample"]["error"]["message"]:
        return str(item["sample"]["error"]["message"])
    failed = (result for result in item["results"] if not result["passed"])
    return ", ".join(
        f"{result['name']}: {result['error']['message']}" if result.get("error") else str(result["name"])
        for result in failed
    )


def _answer(item: Document) -> str:
    text = "".join(message["content"] or "" for message in item["sample"]["output"])
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"


def compared(client: Client, *paths: str) -> Document:
    """Fetch the two runs at the paths. Return them with the pairs of items of which exactly one passes.

    A pair is an item of the first run and an item of the second run with the same content.
    """
    runs = [client.get(path) for path in paths]
    first, second = (dict(_by_content(client.pages(f"{path}/output_items"))) for path in paths)
    pairs = [[first[key], second[key]] for key in first if key in second]
    return {
        "runs": runs,
        "common_items": len(pairs),
        "differing_items": [pair for pair in pairs if len({item["status"] == "pass" for item in pair}) == 2],
    }


def _by_content(items: Iterator[Document]) -> Iterator[tuple[tuple[str, int], Document]]:
    """Yield each item with its key: the item's content, and the number of equal items before it."""
    seen: defaultdict[str, int] = defaultdict(int)
    for item in items:
        content = json.dumps(item["datasource_item"], sort_keys=True)
        yield (content, seen[content]), item
        seen[content] += 1


def print_comparison(comparison: Document, limit: int) -> None:
    first, second = runs = comparison["runs"]
    counts = [{each["testing_criteria"]: each for each in run["per_testing_criteria_results"]} for run in runs]
    rows = [[name, *(_share(each[name]) for each in counts)] for name in counts[0] if name in counts[1]]
    rows.append(["all criteria", *(_share(run["result_counts"]) for run in runs)])
    print_table(["CRITERION", *(_title(run) for run in runs)], rows)
    differing = comparison["differing_items"]
    if not comparison["common_items"]:
        return print_note("The runs have no item in common, so only their counts can be compared.")
    print_note(f"{len(differing)} of {comparison['common_items']} items pass in one run only.")
    if differing[:limit]:
        print_table(
            ["ITEM", "PASSES IN", f"ANSWER OF {_title(first)}", f"ANSWER OF {_title(second)}"],
            [
                [
                    _number(one),
                    _title(first if one["status"] == "pass" else second),
                    _answer(one),
                    _answer(two),
                ]
                for one, two in differing[:limit]
            ],
        )
    return None


def _title(run: Document) -> str:
    return str(run["name"] or run["model"] or run["id"])


def _share(counts: Document) -> str:
    """Return the share of the graded items that passed, in percent."""
    graded = counts["passed"] + counts["failed"] + counts["errored"]
    return f"{100 * counts['passed'] / graded:.0f} %" if graded else "-"


RUNS: Columns = {
    "RUN": "id",
    "STATUS": "status",
    "MODEL": "model",
    "CREATED": time_of("created_at"),
    "ITEMS": lambda run: run["result_counts"]["total"],
    "PASSED": lambda run: _share(run["result_counts"]),
    "NAME": "name",
}
CRITERIA: Columns = {
    "CRITERION": "testing_criteria",
    "PASSED": "passed",
    "FAILED": "failed",
    "ERRORS": "errored",
    "SHARE": _share,
}
