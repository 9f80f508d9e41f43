"""The labels of a file, gathered row by row; what they are is known for certain once the last row is read."""

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from api.spec.fields import AUTO
from api.spec.formats import Label, RowError, RowWarning
from api.spec.formats.base import number, truncate
from api.spec.methods.base import Problem
from worker.rows.multi_hot import MAX_CELLS, MAX_NAMES, MultiHot, class_names
from worker.shared.arrays import Array

MAX_SIMILAR = 10
"""Groups of names that look the same which are listed."""


class Labels(ABC):
    names: list[str] | None = None
    """What columns or indices stand for, in their order; only once `save` was called."""
    problem: Problem | None = None

    @abstractmethod
    def add(self, label: Label | None) -> None:
        """Of the next row; RowError if it does not go with those before it."""

    @abstractmethod
    def save(self, scratch: Path) -> Array | None:
        """[rows, columns] f32, in a file of that name where they are many; None if no row has a label."""

    def counts(self) -> dict[str, int]:
        """Rows for each name; empty where labels are numbers."""
        return {}

    def classes(self) -> int | None:
        """How many the model has to tell apart; None where labels are no classes."""
        return None

    def notices(self) -> list[RowWarning]:
        """What the author of all labels together should know."""
        return []


class Margins(Labels):
    """Of preferences: numbers that most files do not give."""

    def __init__(self) -> None:
        self.values = array("d")
        self.given = False

    def add(self, label: Label | None) -> None:
        self.given = self.given or label is not None
        assert isinstance(label, float | int | None), label
        self.values.append(float(label or 0.0))

    def save(self, scratch: Path) -> Array | None:
        return np.array(self.values, np.float32)[:, None] if self.given else None


class Desirable(Labels):
    """Of single answers: 1 for a good one, 0 for a bad one."""

    def __init__(self) -> None:
        self.values = array("d")

    def add(self, label: Label | None) -> None:
        assert isinstance(label, float), label
        self.values.append(label)

    def save(self, scratch: Path) -> Array | None:
        return np.array(self.values, np.float32)[:, None]

    def counts(self) -> dict[str, int]:
        good = int(sum(self.values))
        return {"true": good, "false": len(self.values) - good}


class Classes(Labels):
    """Of texts: one name, several, or a number. Whole numbers may be either, until another label tells."""

    def __init__(
        self,
        problem: Problem | Literal["auto"] = AUTO,
        allowed: Collection[str] | None = None,
        *,
        decided_by: str = "the training file",
    ) -> None:
        """`allowed`: the only names there may be, where the training file or the model to continue has decided them."""
        self.allowed = allowed
        self.decided_by = decided_by
        self.forced: Problem | None = None if problem == AUTO else problem
        self.seen: Problem | None = None
        """What a label so far can only have been."""
        self.known: dict[str, int] = {}
        """Name to its number, in the order of appearance."""
        self.numbers = array("q")
        """Of all labels' names, one row after the other."""
        self.lengths = array("q")
        """How many names each row has."""
        self.values = array("d")
        self.hot = MultiHot()
        self.real_text = False
        """A label was a number with a fraction, written as text."""

    def add(self, label: Label | None) -> None:
        assert label is not None
        if isinstance(label, tuple):
            label = self._zeros_and_ones(label)
        possible, decided = _possible(label), self.forced or self.seen
        if self.forced == "regression" and number(label) is not None:
            possible = REGRESSION
        if self.forced == "multi_label" and not isinstance(label, list | tuple) and possible >= SINGLE:
            label, possible = [name_of(label)], MULTI
        if decided is None and possible == MULTI and self.lengths:
            decided = "single_label"  # whole numbers came before: names or values, but no lists
        if decided is not None and decided not in possible:
            why = "as this job's labels are" if self.forced else "as the labels before it are"
            raise RowError(f"'label' {_shown(label)} is not a {NOUNS[decided]}, {why}", code="invalid_label")
        self.hot.add(label)
        if len(possible) == 1:
            [self.seen] = possible
        if isinstance(label, str) and (value := number(label)) is not None and not value.is_integer():
            self.real_text = True
        self._keep(label)

    def _zeros_and_ones(self, label: tuple[int, ...]) -> Label:
        """Where the classes are known, as their names."""
        if self.allowed is None:
            return label
        names = class_names(len(label))
        if list(self.allowed) != names:
            return list(map(str, label))
        return [name for name, one in zip(names, label, strict=True) if one]

    def _keep(self, label: Label) -> None:
        names = list(map(str, label)) if isinstance(label, list | tuple) else [name_of(label)]
        value = None if isinstance(label, list | tuple) else number(label)
        self.values.append(float("nan") if value is None else value)
        if self.forced == "regression" or self.seen == "regression":
            names = []
        for name in dict.fromkeys(names):
            if self.allowed is not None and name not in self.allowed:
                raise RowError(f"'label' {truncate(name)} does not occur in {self.decided_by}", code="unknown_label")
            self.numbers.append(self.known.setdefault(name, len(self.known)))
        self.lengths.append(len(dict.fromkeys(names)))
        if len(self.known) > MAX_NAMES:
            if self.decide() != "regression":
                raise RowError(
                    f"has the label number {MAX_NAMES + 1:,}: more are not supported", code="too_many_labels"
                )
            self.seen, self.known, self.numbers = "regression", {}, array("q")

    def decide(self) -> Problem:
        if self.forced is None and self.seen is None and self.real_text:
            return "regression"
        return self.forced or self.seen or "single_label"

    def counts(self) -> dict[str, int]:
        if self.decide() == "regression":
            return {}
        if self.hot.seen:
            return dict(zip(class_names(self.hot.width or 0), self.hot.table().sum(0).tolist(), strict=True))
        counted = Counter(self.numbers)
        return {name: counted[at] for name, at in self.known.items()}

    def classes(self) -> int | None:
        return None if self.decide() == "regression" else self.hot.width if self.hot.seen else len(self.known)

    def notices(self) -> list[RowWarning]:
        if self.hot.seen:
            width = self.hot.width or 0
            words = f"The labels are read as zeros and ones for {width} classes, LABEL_0 to LABEL_{width - 1}; "
            return [RowWarning("zeros_and_ones", words + "lists of names give the classes theirs.")]
        if self.decide() == "regression" and self.forced is None and self.real_text:
            words = "The labels are numbers written as text, and are learnt as numbers. "
            words += "If they are names, set method.classification.problem to single_label."
            return [RowWarning("written_numbers", words)]
        return [] if self.decide() == "regression" else similar_names(self.known)

    def save(self, scratch: Path) -> Array | None:
        self.problem = self.decide()
        if self.problem == "regression":
            return np.array(self.values, np.float32)[:, None]
        if self.hot.seen:
            self.names = class_names(self.hot.width or 0)
            return _on_disk(self.hot.table(), scratch)
        self.names = sorted(self.known)
        place = np.empty(len(self.names), np.int64)  # of each name in the sorted order
        place[[self.known[name] for name in self.names]] = np.arange(len(self.names))
        columns = place[np.frombuffer(self.numbers, np.int64)] if self.numbers else np.empty(0, np.int64)
        if self.problem == "single_label":
            return columns.astype(np.float32)[:, None]
        return self._multi_hot(columns, scratch)

    def _multi_hot(self, columns: Array, scratch: Path) -> Array:
        rows, width = len(self.lengths), len(self.names or ())
        if rows * width > MAX_CELLS:
            raise TooManyLabels(rows, width)
        labels = np.memmap(scratch, "<f4", "w+", shape=(rows, width)) if rows * width else np.zeros((rows, width))
        row_of = np.repeat(np.arange(rows), np.frombuffer(self.lengths, np.int64))
        labels[row_of, columns] = 1.0
        return labels


def _on_disk(table: Array, scratch: Path) -> Array:
    values = np.memmap(scratch, "<f4", "w+", shape=table.shape)
    values[:] = table
    return values


def similar_names(names: Iterable[str]) -> list[RowWarning]:
    """Notices of names that look the same, the first few."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.split()).casefold(), []).append(name)
    groups = [group for group in alike.values() if len(group) > 1][:MAX_SIMILAR]
    words = "differ only in case or spaces, and are classes of their own"
    return [RowWarning("similar_labels", f"The labels {_quoted(group)} {words}.") for group in groups]


def _quoted(names: list[str]) -> str:
    return " and ".join(f"'{truncate(name)}'" for name in names[:5])


class TooManyLabels(Exception):
    def __init__(self, rows: int, names: int) -> None:
        super().__init__(f"{rows:,} rows with labels out of {names:,} are more than can be stored. Use fewer labels.")


SINGLE: frozenset[Problem] = frozenset({"single_label"})
MULTI: frozenset[Problem] = frozenset({"multi_label"})
REGRESSION: frozenset[Problem] = frozenset({"regression"})
NOUNS: dict[Problem, str] = {"single_label": "single name", "multi_label": "list of names", "regression": "number"}


def name_of(label: str | int | float) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _possible(label: Label) -> frozenset[Problem]:
    """What such a label may belong to."""
    if isinstance(label, list | tuple):
        return MULTI
    if isinstance(label, str):
        return SINGLE if number(label) is None else SINGLE | REGRESSION
    if number(label) is None:
        return SINGLE
    return SINGLE | REGRESSION if float(label).is_integer() else REGRESSION


def _shown(label: Label) -> str:
    return truncate(", ".join(map(str, label)) if isinstance(label, list | tuple) else label)
