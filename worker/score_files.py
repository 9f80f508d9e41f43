"""`python -m worker.score_files`: loads a model's files with peft or transformers, and scores rows with the model.

This shows that the files alone hold the trained model: nothing else of the training is used. `attune adapters verify`
starts this program and compares the scores with those that the trainer recorded. A trainer makes the same comparison,
in a forked process, before it publishes the files.

Standard input is an `api.spec.scoring.ScoringRequest` as JSON. The last line on standard output is a `ScoringResult`,
or a `ScoringFailure` whose exception is on standard error.
"""

import sys

import worker.engine.openmp  # noqa: F401  (before torch)

# isort: split
from api.spec.scoring import ScoringRequest
from worker.engine.publish.outputs import reply_to


def main() -> int:
    print(reply_to(ScoringRequest.model_validate_json(sys.stdin.read())).model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
