"""A resumed run against an uninterrupted one: `python -m benchmarks.gpu.resume`.

The trainer uses the GPU if there is one. There, sums have no fixed order, so that the runs differ by rounding.
"""

import tempfile
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.gpu.parts import options_of
from tests.tiny_models import make_model
from tests.worker.recorder import adapter, attempt_after
from tests.worker.run_folders import make_run, random_rows, run_trainer
from worker.engine.model.adapters import ADAPTER_WEIGHTS


def main() -> None:
    options_of(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        check_resume(Path(folder))


def check_resume(folder: Path) -> None:
    base = make_model(folder / "resumed-base", "llama", seed=0)
    print("precision  difference, ‖Δ‖ / ‖w‖, that a kill after step 8 makes, with a saved state of step 5")
    for precision in ("float32", "bfloat16"):
        runs = [folder / f"{name}-{precision}" for name in ("whole", "first")]
        for run in runs:
            make_run(
                run,
                base,
                train=random_rows(23, seed=1),
                technique={"type": "lora", "rank": 4, "dropout": 0.2},
                method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
                training={"learning_rate": 1e-3, "save_every": 5},
                hardware={"precision": precision},
            )
        run_trainer(runs[0])
        stopped = run_trainer(runs[1], env={"ATTUNE_FAIL_AT": "step:8:kill"})
        last = attempt_after(runs[1], folder / f"next-{precision}", stopped.of("state")[-1]["path"])
        run_trainer(last)
        same = adapter(last) == adapter(runs[0])
        print(f"{precision:9}  {'the same bytes' if same else f'{difference(last, runs[0]):.1e}'}", flush=True)


def difference(run: Path, other: Path) -> float:
    """Return the largest difference of two adapters' weights, ‖Δ‖ / ‖w‖ of a matrix."""
    ours, theirs = (load_file(each / "out" / "model" / ADAPTER_WEIGHTS) for each in (run, other))
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in ours)


if __name__ == "__main__":
    main()
