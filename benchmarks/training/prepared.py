"""A workload's rows, prepared once: the arrays that our trainer reads, and the same tokens as JSON for the peers."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.spec.recipe import Recipe
from api.spec.resolve import Labels, ResolvedRecipe, resolve
from benchmarks.training.peers.rows import IGNORED
from benchmarks.training.workloads import Row, Workload
from tests.worker.prepared import jsonl, prepare
from worker.engine.row_order import rows_of_step
from worker.shared.arrays import Array, Rows, load_rows


@dataclass(frozen=True)
class Prepared:
    workload: Workload
    base: Path
    """Folder with links to the base model's files, or copies of them, since the cached model may be converted anew
    during a long run."""
    folder: Path
    """Holds train.jsonl and heldout.jsonl, the uploads; peer-train.jsonl and peer-heldout.jsonl; and data/, the
    arrays."""
    train: Rows
    labels: Labels | None

    @property
    def max_length(self) -> int:
        return int((self.train.ends - self.train.starts).max())

    @property
    def supervised_share(self) -> float:
        """Supervised tokens divided by all tokens."""
        return float((self.train.loss_weights > 0).mean())

    def order(self, seed: int) -> list[int]:
        """Return the numbers of the rows in the order in which Attune's epoch takes them."""
        steps = range(1, self.workload.steps + 1)
        size = self.workload.batch_size
        return [int(row) for step in steps for row in rows_of_step(len(self.train), size, step, seed)]

    def run_folder(self, folder: Path, seed: int) -> Path:
        """Return a new run folder for our trainer, without validation rows."""
        (folder / "data").mkdir(parents=True)
        (folder / "base").symlink_to(self.base)
        (folder / "data" / "train.safetensors").symlink_to(self.folder / "data" / "train.safetensors")
        (folder / "recipe.json").write_text(self.recipe(seed).model_dump_json(indent=2))
        return folder

    def recipe(self, seed: int) -> ResolvedRecipe:
        body = {"training_file": "file-train", **self.workload.recipe(seed)}
        counts: dict[str, Any] = {"train_rows": len(self.train), "validation_rows": 0}
        return resolve(
            Recipe.model_validate(body),
            job_id="ftjob-benchmark",
            seed=seed,
            max_length=self.max_length,
            labels=self.labels,
            **counts,
        )


def prepare_rows(workload: Workload, folder: Path) -> Prepared:
    """Write the rows, and prepare them as a worker does. The folder is emptied first."""
    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    base = folder / "model"
    shutil.copytree(workload.make_base(), base, copy_function=_link)
    rows = workload.rows(base)
    method = workload.recipe(0)["method"]
    train, heldout = jsonl(*rows["train"]), jsonl(*rows["heldout"])
    outcome = prepare(folder, base, train, heldout, method=method, context_window=4096)
    assert outcome.report["ok"], outcome.report
    arrays = {
        "train": load_rows(folder / "data" / "train.safetensors"),
        "heldout": load_rows(folder / "data" / "validation.safetensors"),
    }
    for name, part in arrays.items():
        (folder / f"{name}.jsonl").write_bytes(jsonl(*rows[name]))
        (folder / f"peer-{name}.jsonl").write_bytes(jsonl(*peer_rows(part, rows[name])))
    facts = outcome.report["files"][0]
    labels = Labels(problem=facts["problem"], names=tuple(facts["label_names"])) if facts["problem"] else None
    return Prepared(workload, base, folder, arrays["train"], labels)


def _link(source: str, target: str) -> None:
    """Link or copy a file. The linked file stays if the source's folder is removed."""
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def peer_rows(arrays: Rows, rows: list[Row]) -> Iterator[Row]:
    """Yield each row as the peers get it: tokens, with a label for each token, for each row, or for each side."""
    assert len(arrays) == len(rows), f"{len(rows)} rows became {len(arrays)}"
    for index, row in enumerate(rows):
        sequences = [arrays.sequence(index * arrays.width + side) for side in range(arrays.width)]
        tokens, weights = (array.tolist() for array in sequences[0])
        if arrays.items is not None:
            yield {"prompt": row["messages"], "input_ids": tokens}
        elif arrays.labels is not None:
            yield {"input_ids": tokens, "labels": int(arrays.labels[index, 0])}
        elif arrays.width == 1:
            labels = [token if weight else IGNORED for token, weight in zip(tokens, weights, strict=True)]
            yield {"input_ids": tokens, "labels": labels}
        else:
            begin = weights.index(1)
            chosen, rejected = (_until_last_supervised(*sequence)[begin:] for sequence in sequences)
            yield {"prompt_ids": tokens[:begin], "chosen_ids": chosen, "rejected_ids": rejected}


def _until_last_supervised(tokens_T: Array, weights_T: Array) -> list[int]:
    """Leave out what the chat template adds after the answer: the peers would train on it, as a part of the answer."""
    kept: list[int] = tokens_T[: weights_T.nonzero()[0][-1] + 1].tolist()
    return kept


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]
