"""Stands for a trainer: says one thing, then nothing until it is spoken to."""

import sys

from worker.shared.pipe import Pipe
from worker.shared.reports import PhaseReport

if __name__ == "__main__":
    pipe = Pipe()
    pipe.report(PhaseReport(phase="loading"))
    for _ in sys.stdin:
        pipe.alive()
