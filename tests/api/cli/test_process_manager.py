"""Processes that `attune up` and `attune worker` start and stop."""

import os
import signal
import time
from pathlib import Path

import pytest

from api.cli.process_manager import ProcessManager, Program

UNTIL_ANOTHER = """
trap 'touch "$1/$2.term"; while [ ! -e "$1/$3.term" ]; do sleep 0.02; done; touch "$1/$2.end"; exit 0' TERM
touch "$1/$2.up"
while :; do sleep 0.02; done
"""
"""After SIGTERM, ends when another process has the signal, too."""
AFTER_BOTH = (
    'trap \'[ -e "$1/a.end" ] && [ -e "$1/b.end" ]; exit $?\' TERM; touch "$1/$2.up"; while :; do sleep 0.02; done'
)


def test_a_process_that_cannot_be_started_again_is_tried_later() -> None:
    process = Program("broker", {}, command=["/no/such/program"], restart_at=0.0)
    said: list[str] = []
    process.restart_if_dead(said.append)
    assert said == ["broker did not start: No such file or directory; trying again in 0.2 s"]
    assert process.restart_at is not None
    assert process.restart_at > time.monotonic()


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_nohup_keeps_the_service_when_its_terminal_ends(before: signal.Handlers) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        signal.signal(signal.SIGHUP, before)
        manager = ProcessManager(log=print)
        manager.stop_on_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        assert manager.stopping is (before == signal.SIG_DFL)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_all_are_stopped_at_once_and_what_serves_them_last(tmp_path: Path) -> None:
    manager = ProcessManager(log=print)
    for script, name, *other in ((AFTER_BOTH, "broker"), (UNTIL_ANOTHER, "a", "b"), (UNTIL_ANOTHER, "b", "a")):
        command = ["/bin/sh", "-c", script, "sh", str(tmp_path), name, *other]
        process = Program(name, {}, command=command, stops_last=name == "broker")
        assert manager.start(process, ready=(tmp_path / f"{name}.up").exists)
    started = [process.process for process in manager.processes]
    manager.stop()
    assert [process.poll() for process in started if process] == [0, 0, 0]
