"""The threads that wait for child processes."""

import asyncio
import errno
import threading
from pathlib import Path

import pytest

from api.errors import InsufficientStorage
from api.infra import preview_process
from api.infra.preview_process import PreviewProcesses
from api.settings import Settings


def test_work_whose_caller_is_cancelled_keeps_its_place() -> None:
    processes = PreviewProcesses(Settings(preview_processes=1))
    began, ends, order = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        began.set()
        ends.wait(10)
        order.append("first")

    async def main() -> None:
        cancelled = asyncio.create_task(processes.run_in_thread(first))
        await asyncio.to_thread(began.wait, 10)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        second = asyncio.create_task(processes.run_in_thread(lambda: order.append("second")))
        await asyncio.wait({second}, timeout=0.1)
        assert not second.done(), "the first one is still running"
        ends.set()
        await second

    asyncio.run(main())
    assert order == ["first", "second"]


def test_full_disk_is_reported_to_the_operator(tmp_path: Path) -> None:
    processes = PreviewProcesses(Settings(work_dir=tmp_path))

    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InsufficientStorage, match="work folder is full"):
        processes.run("worker.grade", "grade.json", {}, fill)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("installed", [True, False])
def test_the_fork_server_loads_the_embedding_model_where_torch_is_installed(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    monkeypatch.setattr(preview_process, "find_spec", lambda name: name if installed else None)

    def fork_server(*modules: str) -> None:
        asked.extend(modules)
        raise OSError(errno.ENOSPC, "the end of this test")

    monkeypatch.setattr(preview_process, "fork_server", fork_server)
    processes = PreviewProcesses(Settings(work_dir=tmp_path, embedding_model=tmp_path / "model"))
    with pytest.raises(InsufficientStorage):
        processes.run("worker.grade", "grade.json", {})
    assert ("worker.grade" in asked, any("embedding_model" in module for module in asked)) == (True, installed)
