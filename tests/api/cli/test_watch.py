"""`attune jobs watch`: what is shown, for how long, and the exit code at the end."""

import json
import re
import time
from typing import Any

import pytest

from api.cli import console, waiting
from api.cli.errors import ExitCode
from tests.api.cli.conftest import MODEL, FakeServer, attune, job, message, metrics
from tests.api.cli.terminal import run_on_terminal

FIRST, STEP_1, STEP_2, LAST = message(1, "started"), metrics(2, 1), metrics(3, 2), message(4, "completed")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.0)


def test_each_event_is_printed_once_in_order_until_the_job_ends(server: FakeServer) -> None:
    server.scenes = [
        (job("queued"), [FIRST]),
        (job("running"), [FIRST, STEP_1]),
        (job("running"), [FIRST, STEP_1]),
        (job("succeeded"), [FIRST, STEP_1, STEP_2, LAST]),
    ]
    result = attune("jobs", "watch", "ftjob-1")
    assert result.exit_code == ExitCode.OK
    shown = [line.split("  ", 1)[-1] for line in result.stdout.splitlines()]
    assert shown == [
        "started",
        "Step 1/4: training loss=1.00",
        "Step 2/4: training loss=0.50",
        "completed",
        f"Succeeded: {MODEL} (1,234 tokens trained)",
    ]


def test_json_is_a_line_for_each_event_and_then_the_job(server: FakeServer) -> None:
    server.scenes = [(job("succeeded"), [FIRST, STEP_1, LAST])]
    lines = [json.loads(line) for line in attune("jobs", "watch", "ftjob-1", "--json").stdout.splitlines()]
    assert [line["id"] for line in lines] == ["ftevent-1", "ftevent-2", "ftevent-4", "ftjob-1"]


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (job("failed", error={"code": "diverged", "message": "The loss diverged."}), ExitCode.JOB_FAILED),
        (job("cancelled"), ExitCode.JOB_CANCELLED),
    ],
)
def test_the_exit_code_tells_how_the_job_ended(server: FakeServer, ending: dict[str, Any], code: ExitCode) -> None:
    server.scenes = [(ending, [])]
    result = attune("jobs", "watch", "ftjob-1")
    assert result.exit_code == code
    assert "diverged" in result.stderr or "cancelled" in result.stderr


def test_a_server_that_restarts_is_waited_for(server: FakeServer) -> None:
    server.scenes, server.outages = [(job("succeeded"), [FIRST])], 3
    result = attune("jobs", "watch", "ftjob-1")
    assert result.exit_code == ExitCode.OK
    assert result.stderr.count("Trying again") == 1


def test_a_server_that_stays_away_is_given_up(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_OUTAGE_S", 0.0)
    server.outages = 1000
    assert attune("jobs", "watch", "ftjob-1").exit_code == ExitCode.UNAVAILABLE


def test_ctrl_c_leaves_the_job_running_and_says_so(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    result = attune("jobs", "watch", "ftjob-1")
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "ftjob-1 keeps running" in result.stderr
    assert not [request for request in server.requests if request.startswith("POST")]


def test_create_with_watch_follows_the_new_job(server: FakeServer) -> None:
    server.scenes = [(job("succeeded"), [FIRST])]
    result = attune("jobs", "create", "file-1", "--model", "tiny", "--watch", "--json")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["ftevent-1", "ftjob-1"]


@pytest.mark.parametrize(
    ("param", "command"), [("training_file", "attune files get file-1"), ("technique", "attune jobs log ftjob-1")]
)
def test_a_failure_names_the_command_that_shows_all_of_it(server: FakeServer, param: str, command: str) -> None:
    error = {"code": "a_code", "message": "It failed … and 2 more: lines 7, 9", "param": param}
    server.scenes = [(job("failed", error=error), [FIRST])]
    assert attune("jobs", "watch", "ftjob-1").stderr.splitlines()[-1] == f"More about it: {command}"
    assert re.search(f"^more about it +{command}$", attune("jobs", "get", "ftjob-1").stdout, re.MULTILINE)


def test_a_reason_to_wait_is_a_line_once_it_lasts(server: FakeServer) -> None:
    start = {"earliest": time.time() + 130, "latest": None}
    queue = {"reason": "1 job before it", "position": 2, "expected_start": start, "expected_finish": None}
    brief = {**queue, "reason": "a free worker starts it in a moment"}
    server.scenes = [(job("queued", queue=queue), [])] * 3 + [(job("queued", queue=brief), []), (job("succeeded"), [])]
    lines = [line.split("  ", 1)[-1] for line in attune("jobs", "watch", "ftjob-1").stdout.splitlines()]
    assert lines[:-1] == ["Waiting: 1 job before it; starts in 2 min 10 s or more"]


def test_wait_prints_only_the_end(server: FakeServer) -> None:
    server.scenes = [(job(), [FIRST]), (job("succeeded"), [FIRST, STEP_1])]
    result = attune("jobs", "wait", "ftjob-1")
    assert (result.exit_code, len(result.stdout.splitlines())) == (ExitCode.OK, 1)
    assert set(server.requests) == {"GET /v1/fine_tuning/jobs/ftjob-1"}  # a job has up to a million events


def test_wait_gives_up_after_its_time_out(server: FakeServer) -> None:
    result = attune("jobs", "wait", "ftjob-1", "--timeout", "0")
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "ftjob-1 has not ended in time: it is running" in result.stderr


def test_a_terminal_does_not_wait_for_all_steps_before(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    server.scenes = [(job("succeeded"), [FIRST, *(metrics(n, n, 99) for n in range(2, 99)), message(99, "completed")])]
    code, shown = run_on_terminal("jobs", "watch", "ftjob-1")
    assert code == ExitCode.OK
    assert re.search(r"started.*completed.*Succeeded", shown, re.DOTALL)
    assert server.requests.count("GET /v1/fine_tuning/jobs/ftjob-1/events") == 2


def test_a_terminal_shows_a_bar_with_the_phase(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.2)  # the bar is drawn ten times a second
    monkeypatch.setattr(console.err, "is_interactive", True)  # decided at import, when there was no terminal
    monkeypatch.setenv("TERM", "xterm")
    finish = {"earliest": time.time() + 70, "latest": None}
    server.scenes = [
        (job(progress={"phase": phase}, expected_finish=finish), [FIRST, STEP_1]) for phase in ("training", "comparing")
    ]
    server.scenes.append((job("succeeded"), [FIRST, STEP_1, LAST]))
    code, shown = run_on_terminal("jobs", "watch", "ftjob-1")
    assert code == ExitCode.OK
    assert "Comparing with the base model" in shown
    assert re.search(r"1/4  loss 1.000  200 tokens/s  1 min \d+ s or more left", shown)
    assert "Succeeded" in shown
