"""`attune batches watch` and `attune evals run --watch`, while the batch or run is under way."""

from typing import Any

import pytest

from api.cli import waiting
from api.cli.batch_watch import watch_batch
from api.cli.client import Client
from api.cli.errors import CommandError, ExitCode
from api.cli.eval_results import EXIT_CODES, describe_run
from api.cli.waiting import watch_counts


class Scenes(Client):
    """A server on which a batch changes with every request."""

    def __init__(self, *scenes: dict[str, Any] | None) -> None:
        self._scenes = iter(scenes)

    def get(self, path: str, **params: object) -> dict[str, Any]:
        if (scene := next(self._scenes)) is None:
            raise CommandError(ExitCode.UNAVAILABLE, "cannot reach the server.")
        return scene


def scene(status: str, completed: int = 0, failed: int = 0, total: int = 20) -> dict[str, Any]:
    counts = {"completed": completed, "failed": failed, "total": total}
    return {"id": "b", "status": status, "request_counts": counts, "output_file_id": "file-1", "error_file_id": None}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.0)


def test_a_line_is_printed_for_each_status_and_each_tenth_also_after_an_outage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    going = [scene("in_progress", done) for done in (0, 1, 2)]
    client = Scenes(scene("validating", total=0), *going, None, scene("in_progress", 2, 2), scene("completed", 18, 2))
    assert watch_batch(client, "b", as_json=False) is ExitCode.OK
    printed = capsys.readouterr()
    assert [line.split("  ")[1] for line in printed.out.splitlines()] == [
        "validating",
        "in progress: 0 of 20 requests answered",
        "in progress: 2 of 20 requests answered",
        "in progress: 2 of 20 requests answered, 2 failed",
        "completed: 18 of 20 requests answered, 2 failed",
    ]
    assert printed.err.splitlines() == [
        "cannot reach the server. Trying again …",
        "Download the answers with: attune batches download b",
    ]


def test_a_note_says_once_that_nothing_has_begun(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "NOT_BEGUN_S", 0.0)
    waits = [scene("validating", total=0)] * 3
    assert watch_batch(Scenes(*waits, scene("cancelled")), "b", as_json=False) is ExitCode.JOB_CANCELLED
    assert capsys.readouterr().err.count("whether a worker of the stage batch runs") == 1


def test_a_run_that_waits_for_a_judge_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    def run(status: str, message: str = "", **counts: int) -> dict[str, Any]:
        none = {"passed": 0, "failed": 0, "errored": 0, "total": 20}
        return {"status": status, "error": {"message": message}, "result_counts": none | counts}

    waits = run("in_progress", "The run waits for a judge")
    scenes = iter([run("in_progress"), waits, waits, run("completed", passed=20)])
    watch_counts(lambda: next(scenes), EXIT_CODES, describe_run, subject="the run", stage="evaluate", quiet=False)
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "in progress: 0 of 20 items graded",
        "in progress: 0 of 20 items graded. The run waits for a judge",
        "completed: 20 of 20 items graded, 100 % passed",
    ]


def test_the_exit_code_tells_how_the_batch_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch_batch(Scenes(scene("cancelled", 1)), "b", as_json=False) is ExitCode.JOB_CANCELLED
    assert watch_batch(Scenes(scene("expired", 1)), "b", as_json=True) is ExitCode.JOB_FAILED
    assert capsys.readouterr().out.splitlines()[-1].startswith('{"id": "b"')
