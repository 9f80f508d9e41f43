"""Compares a resumed run with an uninterrupted one on this device. The trainer uses the GPU if there is one."""

from pathlib import Path

from tests.tiny_models import make_model
from tests.worker.recorder import adapter, attempt_after
from tests.worker.run_folders import make_run, random_rows, run_trainer


def check_resume(folder: Path) -> None:
    base = make_model(folder / "resumed-base", "llama", seed=0)
    print("\nprecision  a run that was killed at step 8 and resumed from step 5 publishes")
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
        print(f"{precision:9}  {'the same bytes' if same else 'DIFFERENT BYTES'}", flush=True)
