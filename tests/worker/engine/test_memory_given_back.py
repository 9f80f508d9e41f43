"""What a process frees goes back to the system, so that another one beside it has it."""

from pathlib import Path

import pytest
import torch

from worker.engine.memory.heap import trim_heap

SMALL, COUNT = 100_000, 2_000


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells nothing of a process")
def test_what_lies_between_kept_blocks_is_given_back() -> None:
    blocks = [torch.ones(SMALL // 4) for _ in range(COUNT)]  # below what is mapped by itself: they lie in the heap
    kept = blocks[:: COUNT // 10]
    before = resident()
    blocks.clear()
    trim_heap()
    assert before - resident() > 0.8 * SMALL * COUNT
    assert all(float(block[0]) == 1.0 for block in kept)
