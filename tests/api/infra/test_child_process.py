"""Children of a fork server behave as those that are started anew."""

import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from api.infra import child_process
from api.infra.child_environment import child_environment
from api.infra.child_process import ForkServer, Process, start_fresh
from tests.end_to_end.jobs import wait_until
from tests.services.attune import words_of
from worker.supervisor.child import Child

CHILD = "tests.api.infra.forked"

Start = Callable[..., Process]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTUNE_SECRET", "not for children")
        server = ForkServer(f"{CHILD}:given")
    yield server
    server.close()


@pytest.fixture(params=["forked", "fresh"])
def start(request: pytest.FixtureRequest, server: ForkServer, tmp_path: Path) -> Start:
    begin = server.start if request.param == "forked" else start_fresh

    def start(*arguments: str, environment: dict[str, str] | None = None, **options: object) -> Process:
        with (tmp_path / "log").open("ab") as output:
            environment = child_environment() | (environment or {})
            return begin(CHILD, *arguments, environment=environment, output=output, **options)  # type: ignore[arg-type]

    return start


def _told(start: Start, *arguments: str, **environment: str) -> dict[str, object]:
    read_fd, write_fd = os.pipe()
    child = start("tell", *arguments, environment=environment, descriptors={"REPORT_TO": write_fd})
    os.close(write_fd)
    assert child.stdin is not None
    child.stdin.write(b"a command\n")
    child.stdin.close()
    with os.fdopen(read_fd) as reports:
        facts: dict[str, object] = json.load(reports)
    assert child.wait(30) == 0
    return facts


def test_a_child_has_its_arguments_input_output_and_group(start: Start, tmp_path: Path) -> None:
    facts = _told(start, "a b", "")
    assert (facts["arguments"], facts["stdin"], facts["group"]) == (["a b", ""], "a command\n", True)
    assert (tmp_path / "log").read_text() == "to the log\n"


def test_a_forked_child_has_what_the_server_has_prepared(start: Start, request: pytest.FixtureRequest) -> None:
    forked = request.node.callspec.params["start"] == "forked"
    assert _told(start)["prepared"] == (["given"] if forked else [])


def test_a_child_has_the_variables_that_it_is_given_and_no_others(start: Start) -> None:
    facts = _told(start, ATTUNE_FAIL_AT="3")
    first = facts["environment"]
    second = _told(start)["environment"]
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["ATTUNE_FAIL_AT"], first["ATTUNE_PARENT"]) == ("3", str(facts["parent"]))
    for environment in (first, second):
        assert not [value for value in environment.values() if "not for children" in value]
    assert "ATTUNE_FAIL_AT" not in second
    assert second["CUDA_VISIBLE_DEVICES"] == ""


def test_a_child_has_no_open_files_of_the_server_or_of_other_children(server: ForkServer, start: Start) -> None:
    other = start("sleep")
    open_files = _told(start)["open"]
    os.killpg(other.pid, signal.SIGKILL)
    assert isinstance(open_files, list)
    assert len(open_files) <= 5, "the three standard files, the pipe, and the folder that is read to find them"


@pytest.mark.parametrize(
    ("arguments", "code", "log"),
    [
        (["exit", "3"], 3, ""),
        (["refuse"], 1, "usage: none"),
        (["raise"], 1, "ValueError: a reason"),
        (["die", "SIGSEGV"], -signal.SIGSEGV, ""),
        (["die", "SIGKILL"], -signal.SIGKILL, ""),
    ],
)
def test_its_exit_code_is_known(arguments: list[str], code: int, log: str, start: Start, tmp_path: Path) -> None:
    child = start(*arguments)
    assert child.wait(30) == code
    assert child.poll() == code
    assert log in (tmp_path / "log").read_text()


def test_it_runs_until_it_is_killed(start: Start) -> None:
    child = start("sleep")
    assert child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def test_a_process_is_named_after_its_program(server: ForkServer, start: Start) -> None:
    child = start("sleep")
    wait_until(lambda: CHILD in words_of(psutil.Process(child.pid)))
    os.killpg(child.pid, signal.SIGKILL)


def test_sigterm_ends_children_but_not_their_server(server: ForkServer, tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as output:
        child = server.start(CHILD, "sleep", environment=child_environment(), output=output)
    psutil.Process(child.pid).parent().terminate()
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(30) == -signal.SIGTERM, "a dead server's children are killed"


def test_a_child_of_a_dead_server_is_ended_and_the_next_one_starts(tmp_path: Path) -> None:
    server = ForkServer(CHILD)
    with (tmp_path / "log").open("ab") as output:
        child = server.start(CHILD, "sleep", environment=child_environment(), output=output)
        server.close()
        assert child.wait(30) == -signal.SIGKILL
        assert server.start(CHILD, "exit", "4", environment=child_environment(), output=output).wait(30) == 4
    server.close()


def test_a_server_that_cannot_import_leaves_children_to_be_started_anew(tmp_path: Path) -> None:
    server = ForkServer("tests.api.infra.no_such_module")
    with (tmp_path / "log").open("ab") as output:
        assert server.start(CHILD, "exit", "4", environment=child_environment(), output=output).wait(30) == 4


def test_children_of_a_server_that_has_threads_are_started_anew(tmp_path: Path) -> None:
    server = ForkServer("tests.api.infra.threaded")
    with (tmp_path / "log").open("ab") as output:
        child = server.start(CHILD, "exit", "5", environment=child_environment(), output=output)
        assert child.wait(30) == 5
    server.close()


def test_a_server_serves_those_to_whom_it_is_lent_and_outlives_them(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, descriptor in server.lend().items():
        monkeypatch.setenv(name, str(os.dup(descriptor)))
    borrower = ForkServer(lent=True)
    lenders = server._server
    assert _parent(borrower, tmp_path) == _process(server).pid
    borrower.close()
    assert _parent(server, tmp_path) == _process(server).pid
    assert server._server is lenders


def test_a_slow_server_does_not_start_a_program_for_which_nobody_waits_any_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender = ForkServer()
    for name, descriptor in lender.lend().items():
        monkeypatch.setenv(name, str(os.dup(descriptor)))
    borrower, process = ForkServer(lent=True), _process(lender)
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(child_process, "START_S", 0.01)
    with (tmp_path / "log").open("ab") as output:
        assert borrower.start(CHILD, "refuse", environment=child_environment(), output=output).wait(30) == 1
    lender._server.hang_up()
    process.send_signal(signal.SIGCONT)
    process.wait(30)  # until the child has ended that it forks all the same
    assert (tmp_path / "log").read_text().splitlines() == ["usage: none"]


def test_a_server_that_cannot_fork_serves_the_next_request(tmp_path: Path) -> None:
    server = ForkServer(f"{CHILD}:without a process left")
    process = _process(server)
    assert _exit_code(server, tmp_path) == 3, "started anew"
    assert _parent(server, tmp_path) == process.pid
    server.close()


def _parent(server: ForkServer, folder: Path) -> int:
    """Return the process id of the parent of a child that `server` starts."""
    with (folder / "log").open("ab") as output:
        child = server.start(CHILD, "sleep", environment=child_environment(), output=output)
    parent: int = psutil.Process(child.pid).ppid()
    os.killpg(child.pid, signal.SIGKILL)
    return parent


def _process(server: ForkServer) -> subprocess.Popen[bytes]:
    assert isinstance(server._server, child_process._Server)
    return server._server.process


def test_a_borrower_starts_a_server_of_its_own_if_the_lent_one_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender = ForkServer(CHILD)
    for name, descriptor in lender.lend().items():
        monkeypatch.setenv(name, str(os.dup(descriptor)))
    borrower = ForkServer(CHILD, lent=True)
    lender.close()
    assert [_exit_code(borrower, tmp_path) for _ in range(2)] == [3, 3]
    assert _process(borrower).poll() is None
    borrower.close()


def _exit_code(server: ForkServer, folder: Path) -> int:
    with (folder / "log").open("ab") as output:
        return server.start(CHILD, "exit", "3", environment=child_environment(), output=output).wait(30)


def test_the_server_ends_after_its_last_child(server: ForkServer, tmp_path: Path) -> None:
    other = ForkServer(CHILD)
    with (tmp_path / "log").open("ab") as output:
        child = other.start(CHILD, "sleep", environment=child_environment(), output=output)
    other._server.hang_up()
    with pytest.raises(subprocess.TimeoutExpired):
        _process(other).wait(0.2)
    os.killpg(child.pid, signal.SIGKILL)
    assert _process(other).wait(30) == 0


def test_two_threads_that_start_at_once_share_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []

    def start(*modules: str, threads: int | None = None, lent: bool = False) -> None:
        started.append(modules)
        threading.Event().wait(0.05)  # for the other thread to come, too

    monkeypatch.setattr(child_process, "_fork_server", cache(start))
    threads = [threading.Thread(target=child_process.fork_server, args=("a",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [("a",)]


def test_a_child_that_cannot_start_leaves_no_open_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("worker.supervisor.child.start_fresh", fail)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="temporarily"):
        Child("worker.train", log_file=tmp_path / "log.txt")
    assert sorted(os.listdir("/proc/self/fd")) == before
