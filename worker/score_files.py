"""`python -m worker.score_files`: load model files as plain peft or transformers do, and score rows with them.

A child of the trainer, before it publishes, and of `attune adapters verify`; both compare the outputs themselves. It
knows nothing of a training. Standard input is an `api.spec.scoring.ScoringRequest` as JSON. The last line on standard
output is a `ScoringResult`, or a `ScoringFailure` whose exception is on standard error.
"""

import sys
import traceback

import worker.engine.openmp  # noqa: F401  (before torch)

# isort: split
import torch

from api.spec.scoring import ScoringFailure, ScoringRequest, ScoringResult
from worker.engine.errors import as_training_error
from worker.engine.peak_memory import PeakSampler
from worker.engine.publish.outputs import score, scoring_device


def main() -> int:
    request = ScoringRequest.model_validate_json(sys.stdin.read())
    torch.use_deterministic_algorithms(True, warn_only=True)  # as the trainer does
    reply: ScoringResult | ScoringFailure
    device = scoring_device(request)
    try:
        with PeakSampler(device) as highest:
            scored = score(request)
        outputs = [[values.tolist() for values in rows] for rows in scored]
        reply = ScoringResult(outputs=outputs, device=device.type, peak_bytes=highest.bytes)
    except Exception as error:  # any: the log gets the whole exception, the caller its meaning
        traceback.print_exc()
        failure = as_training_error(error)
        reply = ScoringFailure(reason=failure.reason, message=failure.message)
    print(reply.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
