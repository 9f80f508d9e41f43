"""Saved results, one JSON object per line, so that an interrupted run continues where it stopped."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


class Results:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.all: list[Figures] = []
        if path.exists():
            self.all = [json.loads(line) for line in path.read_text().splitlines()]

    def get_or_measure(self, name: str, seed: int, measure: Callable[[], Figures]) -> Figures:
        """Return the saved figures of this name and seed, or measure and save them."""
        for saved in self.all:
            if (saved["name"], saved["seed"]) == (name, seed):
                return saved
        figures = {"name": name, "seed": seed, **measure()}
        self.all.append(figures)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(figures) + "\n")
            os.fsync(file.fileno())
        print(name, seed, {key: value for key, value in figures.items() if isinstance(value, float)}, flush=True)
        return figures

    def of(self, name: str) -> list[Figures]:
        """Return the figures of this name, one for each seed."""
        return sorted((figures for figures in self.all if figures["name"] == name), key=lambda figures: figures["seed"])
