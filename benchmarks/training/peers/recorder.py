"""What the peers' programs share: their request, and a record of any training that transformers' Trainer makes.

These modules run in the peers' environments and import nothing of Attune.
"""

import json
import sys
import time
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback


class Request:
    """The request of a run: the JSON object in the file that the command line names."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())

    def __getattr__(self, name: str) -> Any:
        return self.fields[name]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows in the order in which Attune trains on them. The programs keep it."""
        rows = [json.loads(line) for line in Path(self.fields["rows"]).read_text().splitlines()]
        return [rows[index] for index in self.order]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that all trainers share. Everything else keeps the peer's default."""
        return {
            "output_dir": self.output,
            "per_device_train_batch_size": self.batch_size // self.accumulation,
            "gradient_accumulation_steps": self.accumulation,
            "num_train_epochs": 1,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "bf16": True,
            "use_cpu": not torch.cuda.is_available(),
            "seed": self.seed,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": self.save_step,
            "report_to": "none",
        }

    def report(self, **values: Any) -> None:
        """Append a line to the run's reports, with the time of the clock that the harness reads, too."""
        with Path(self.reports).open("a") as file:
            file.write(json.dumps({**values, "time": time.monotonic()}) + "\n")


class Recorder(TrainerCallback):
    """Reports each step's end, its tokens without padding and its loss."""

    def __init__(self, request: Request) -> None:
        self._request, self._tokens = request, 0

    def count(self, inputs: Any) -> None:
        if "attention_mask" in inputs:
            self._tokens += int(inputs["attention_mask"].sum())
        elif "input_ids" in inputs:
            self._tokens += inputs["input_ids"].numel()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._request.report(type="step", step=state.global_step, tokens=self._tokens)
        self._tokens = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        self._request.report(type="log", step=state.global_step, logs=numbers)


def record(request: Request) -> None:
    """Make every later `Trainer.train` of this process report its steps, its first checkpoint and its peak memory."""
    train = Trainer.train

    @wraps(train)
    def recorded(self: Any, *arguments: Any, **options: Any) -> Any:
        recorder = Recorder(request)
        self.add_callback(recorder)
        training_step, save_checkpoint = self.training_step, self._save_checkpoint

        def counted_step(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            recorder.count(inputs)
            return training_step(model, inputs, *rest, **named)

        def timed_save(*rest: Any, **named: Any) -> Any:
            begin = time.monotonic()
            saved = save_checkpoint(*rest, **named)
            seconds = time.monotonic() - begin
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            request.report(type="checkpoint", step=self.state.global_step, seconds=seconds, bytes=size)
            return saved

        self.training_step, self._save_checkpoint = counted_step, timed_save
        result = train(self, *arguments, **options)
        request.report(type="trained", peak_bytes=peak_bytes())
        return result

    Trainer.train = recorded  # type: ignore[method-assign]


def peak_bytes() -> int:
    """Return the peak of the memory that torch has allocated on the GPU; without one, of this process's resident
    memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
