"""`python -m worker.score_files`: score files that are about to be published, in a process that knows only them.

A child of the trainer. On standard input is a Request; the last line on standard output is JSON: {"said": for each
folder what it says of each row, "peak_bytes"}, or {"reason", "message"} of a TrainingError.
"""

import json
import sys
import traceback
from pathlib import Path

import worker.engine.openmp  # noqa: F401  (before torch)

# isort: split
import torch

from api.spec.resolve import ResolvedRecipe
from worker.engine.errors import as_training_error
from worker.engine.peak_memory import Highest, give_back
from worker.engine.publish.fresh_process import Request
from worker.engine.publish.parity import Outputs, said_by_files, said_by_merged


def read(request: Request) -> list[Outputs]:
    recipe = ResolvedRecipe.model_validate(request.recipe)
    rows, device = request.as_rows(), torch.device(request.device)
    said = [said_by_files(Path(request.folder), Path(request.base), recipe, rows, device)]
    if request.merged is not None:
        give_back()
        said.append(said_by_merged(Path(request.merged), recipe, rows, device))
    return said


def main() -> int:
    request = Request.model_validate_json(sys.stdin.read())
    torch.use_deterministic_algorithms(True, warn_only=True)  # as the trainer does
    try:
        with Highest(torch.device(request.device)) as highest:
            found = read(request)
        said = [[row.tolist() for row in said] for said in found]
        print(json.dumps({"said": said, "peak_bytes": highest.bytes}))
    except Exception as error:  # whatever it was: the log gets all of it, the trainer its meaning
        traceback.print_exc()
        failure = as_training_error(error)
        print(json.dumps({"reason": failure.reason.value, "message": failure.message}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
