"""Each paper's main claim, measured on a small scale: `python -m benchmarks.relations`, or `make relations`.

Results are saved one by one, so an interrupted run continues where it stopped. Remove the file to measure again.
"""

import argparse
from pathlib import Path

from benchmarks.relations import rewards, table, techniques
from benchmarks.relations.bases import CACHE
from benchmarks.relations.results import Results
from benchmarks.relations.runs import ROOT

RESULTS = Path(__file__).parent / "results.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relations", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only", nargs="+", default=[""], help="measure only experiments whose name contains one of these"
    )
    parser.add_argument(
        "--table", action="store_true", help="measure nothing; write the saved results into docs/benchmarks.md"
    )
    options = parser.parse_args()
    results, scratch = Results(options.results), CACHE / "relations"
    for seed in [] if options.table else options.seeds:
        techniques.measure(results, scratch, seed, options.only)
        rewards.measure(results, scratch, seed, options.only)
    table.write(results, ROOT / "docs" / "benchmarks.md")


if __name__ == "__main__":
    main()
