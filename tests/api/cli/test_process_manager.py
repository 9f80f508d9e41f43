"""Processes that `attune up` and `attune worker` start and stop."""

from pathlib import Path

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


def test_all_are_stopped_at_once_and_what_serves_them_last(tmp_path: Path) -> None:
    manager = ProcessManager(log=print)
    for script, name, *other in ((AFTER_BOTH, "broker"), (UNTIL_ANOTHER, "a", "b"), (UNTIL_ANOTHER, "b", "a")):
        command = ["/bin/sh", "-c", script, "sh", str(tmp_path), name, *other]
        process = Program(name, {}, command=command, serves_others=name == "broker")
        assert manager.start(process, ready=(tmp_path / f"{name}.up").exists)
    started = [process.process for process in manager.processes]
    manager.stop()
    assert [process.poll() for process in started if process] == [0, 0, 0]
