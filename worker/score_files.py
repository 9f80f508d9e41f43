"""`python -m worker.score_files`: load model files as plain peft or transformers do, and score rows with them.

`attune adapters verify` starts it and compares the scores with those that the trainer recorded. A trainer does the same
in a forked process before it publishes. Only the files are used, nothing else of the training. Standard input is an
`api.spec.scoring.ScoringRequest` as JSON. The last line on standard output is a `ScoringResult`, or a `ScoringFailure`
whose exception is on standard error.
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
