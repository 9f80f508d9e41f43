"""What was measured, one JSON object a line: a run that was killed goes on where it was."""

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

    def measured(self, name: str, seed: int, measure: Callable[[], Figures]) -> Figures:
        """The figures of this name and seed: those that are there, or `measure`'s, which are kept."""
        for found in self.all:
            if (found["name"], found["seed"]) == (name, seed):
                return found
        figures = {"name": name, "seed": seed, **measure()}
        self.all.append(figures)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(figures) + "\n")
            os.fsync(file.fileno())
        print(name, seed, {key: value for key, value in figures.items() if isinstance(value, float)}, flush=True)
        return figures

    def of(self, name: str) -> list[Figures]:
        """One for each seed."""
        return sorted((each for each in self.all if each["name"] == name), key=lambda each: each["seed"])
