"""Each paper's relation, reproduced small: `python -m benchmarks.relations`, or `make relations`.

Figures are kept as they come, so that a run that was stopped goes on where it was: remove the file to begin anew.
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
    parser.add_argument("--only", nargs="+", default=[""], help="measure what has one of these in its name")
    parser.add_argument(
        "--table", action="store_true", help="only write the table into docs/benchmarks.md, from what is there"
    )
    options = parser.parse_args()
    results, scratch = Results(options.results), CACHE / "relations"
    for seed in [] if options.table else options.seeds:
        techniques.measure(results, scratch, seed, options.only)
        rewards.measure(results, scratch, seed, options.only)
    table.write(results, ROOT / "docs" / "benchmarks.md")


if __name__ == "__main__":
    main()
