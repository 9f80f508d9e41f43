"""LoRA of a random model against TRL: `python -m benchmarks.gpu.speed 8B [--small] [--without-trl WHY]`.

The trainings and figures are those of `benchmarks.training`, one round, on chats of skewed lengths. The service is left
out.
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.gpu.bases import SHAPES, random_base
from benchmarks.training import table
from benchmarks.training.__main__ import Round
from benchmarks.training.environments import PEERS, NotInstalled, Peer
from benchmarks.training.prepared import prepare_rows
from benchmarks.training.workloads import Workload, chat, skewed

PEER_NAMES = ("TRL best", "TRL default")
STEPS = 8
BATCH_SIZE, SMALL_BATCH_SIZE = 32, 4
ACCUMULATION, SMALL_ACCUMULATION = {"0.5B": 4, "1B": 4, "8B": 8}, 2
"""TRL's micro-batches are 8 or, at 8B, 4 rows: 32 rows of up to 2,000 tokens need more memory than a GPU has."""
LENGTHS = {"median": 200, "longest": 2000}
SMALL_LENGTHS = {"median": 20, "longest": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--small", action="store_true", help="a tiny model of the shape's family, and short rows")
    parser.add_argument("--without-trl", metavar="WHY", help="leave out TRL, for this reason")
    parser.add_argument("--install", action="store_true", help="only install TRL, or fail with the reason")
    options = parser.parse_args()
    peers = [PEERS[name] for name in PEER_NAMES]
    if options.install:
        install(peers[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        workload = lora_workload(options.shape, Path(folder), small=options.small)
        prepared = prepare_rows(workload, Path(folder) / "rows")
        measured = table.Measured(workload.name, workload.title)
        if options.without_trl:
            measured.absent |= {peer.name: options.without_trl for peer in peers}
        Round(prepared, 0, os.cpu_count() or 1, with_service=False).run(measured, peers)
        print(table.markdown(measured), flush=True)


def install(peer: Peer) -> None:
    try:
        print(f"TRL's environment: {peer.python()}")
    except NotInstalled as error:
        sys.exit(str(error))


def lora_workload(shape: str, folder: Path, *, small: bool) -> Workload:
    batch_size = SMALL_BATCH_SIZE if small else BATCH_SIZE
    lengths = skewed(STEPS * batch_size, **(SMALL_LENGTHS if small else LENGTHS))
    return Workload(
        shape, f"LoRA, shape of {shape}, chat of skewed lengths", "supervised", lengths, batch_size, chat,
        learning_rate=2e-4, accumulation=SMALL_ACCUMULATION if small else ACCUMULATION[shape],
        make_base=partial(random_base, folder / "model", shape, small=small),
    )  # fmt: skip


if __name__ == "__main__":
    main()
