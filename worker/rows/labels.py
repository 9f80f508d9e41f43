"""The labels of a file, collected row by row. Whether they are names, lists of names or numbers may depend on the last
row."""

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from api.spec.fields import AUTO
from api.spec.formats import Label, RowError, RowWarning
from api.spec.formats.base import parse_number, truncate
from api.spec.methods.base import Problem
from worker.rows.multi_hot import MAX_CELLS, MAX_NAMES, MultiHot, class_names
from worker.shared.arrays import Array

MAX_SIMILAR = 10
"""Maximum number of groups of similar names that are listed."""


class LabelColumn(ABC):
    """The labels of one file."""

    names: list[str] | None = None
    """The names of the columns or class indices, in order; set by `save`."""
    problem: Problem | None = None
    """The classification problem (single_label, multi_label or regression); set by `save`."""

    @abstractmethod
    def add(self, label: Label | None) -> None:
        """Add the next row's label. Raises RowError if the label does not fit the labels before it."""

    @abstractmethod
    def save(self, scratch: Path) -> Array | None:
        """Return the labels [rows, columns] in float32, or None if no row has one. A large array is memory-mapped from
        `scratch`."""

    def counts(self) -> dict[str, int]:
        """Return the number of rows with each label name; empty if the labels are numbers."""
        return {}

    def classes(self) -> int | None:
        """Return the number of classes, or None if the labels are not classes."""
        return None

    def warnings(self) -> list[RowWarning]:
        """Return the warnings about all labels together."""
        return []


class MarginColumn(LabelColumn):
    """The margins of preferences, which most files leave out."""

    def __init__(self) -> None:
        self.values = array("d")
        self.any_given = False

    def add(self, label: Label | None) -> None:
        self.any_given = self.any_given or label is not None
        assert isinstance(label, float | int | None), label
        self.values.append(float(label or 0.0))

    def save(self, scratch: Path) -> Array | None:
        return np.array(self.values, np.float32)[:, None] if self.any_given else None


class DesirableColumn(LabelColumn):
    """Whether each single answer is good (1) or bad (0)."""

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


class ClassColumn(LabelColumn):
    """The labels of texts: each is one name, a list of names, or a number. A whole number may be a name or a number,
    until another label of the file decides."""

    def __init__(
        self,
        problem: Problem | Literal["auto"] = AUTO,
        allowed: Collection[str] | None = None,
        *,
        decided_by: str = "the training file",
    ) -> None:
        """`allowed`: the only valid names, if the training file or the model that the job continues has set them."""
        self.allowed = allowed
        self.decided_by = decided_by
        self.forced: Problem | None = None if problem == AUTO else problem
        self.inferred: Problem | None = None
        """The only problem that the labels so far allow; None as long as they allow more than one."""
        self.name_ids: dict[str, int] = {}
        """Name → id, in the order of appearance."""
        self.ids = array("q")
        """The ids of all rows' names, concatenated."""
        self.lengths = array("q")
        """The number of names of each row."""
        self.values = array("d")
        """Each label as a number, or NaN."""
        self.multi_hot = MultiHot()
        self.real_text = False
        """Whether a label was a number with a fraction, written as text."""

    def add(self, label: Label | None) -> None:
        assert label is not None
        if isinstance(label, tuple):
            label = self._zeros_and_ones(label)
        possible, decided = _possible(label), self.forced or self.inferred
        if self.forced == "regression" and parse_number(label) is not None:
            possible = REGRESSION
        if self.forced == "multi_label" and not isinstance(label, list | tuple) and possible >= SINGLE:
            label, possible = [label_name(label)], MULTI
        if decided is None and possible == MULTI and self.lengths:
            decided = "single_label"  # earlier labels are whole numbers, not lists of names
        if decided is not None and decided not in possible:
            why = "as this job requires" if self.forced else "like the labels before it"
            raise RowError(f"'label' {_display(label)} must be a {NOUNS[decided]}, {why}", code="invalid_label")
        self.multi_hot.add(label)
        if len(possible) == 1:
            [self.inferred] = possible
        if isinstance(label, str) and (value := parse_number(label)) is not None and not value.is_integer():
            self.real_text = True
        self._keep(label)

    def _zeros_and_ones(self, label: tuple[int, ...]) -> Label:
        """Return a label of zeros and ones as a list of names if the names of the file's classes are known, else
        unchanged."""
        if self.allowed is None:
            return label
        names = class_names(len(label))
        if list(self.allowed) != names:
            return list(map(str, label))
        return [name for name, one in zip(names, label, strict=True) if one]

    def _keep(self, label: Label) -> None:
        names = list(map(str, label)) if isinstance(label, list | tuple) else [label_name(label)]
        value = None if isinstance(label, list | tuple) else parse_number(label)
        self.values.append(float("nan") if value is None else value)
        if self.forced == "regression" or self.inferred == "regression":
            names = []
        for name in dict.fromkeys(names):
            if self.allowed is not None and name not in self.allowed:
                raise RowError(f"'label' {truncate(name)} does not occur in {self.decided_by}", code="unknown_label")
            self.ids.append(self.name_ids.setdefault(name, len(self.name_ids)))
        self.lengths.append(len(dict.fromkeys(names)))
        if len(self.name_ids) > MAX_NAMES:
            if self.decided_problem() != "regression":
                raise RowError(
                    f"has a new label, but the file already has {MAX_NAMES:,} different labels: use fewer labels",
                    code="too_many_labels",
                )
            self.inferred, self.name_ids, self.ids = "regression", {}, array("q")

    def decided_problem(self) -> Problem:
        """Return the problem that the labels so far show. If they allow both single_label and regression, return
        regression if a label is a fraction written as text, else single_label."""
        if self.forced is None and self.inferred is None and self.real_text:
            return "regression"
        return self.forced or self.inferred or "single_label"

    def counts(self) -> dict[str, int]:
        if self.decided_problem() == "regression":
            return {}
        if self.multi_hot.present:
            return dict(
                zip(class_names(self.multi_hot.width or 0), self.multi_hot.table().sum(0).tolist(), strict=True)
            )
        counted = Counter(self.ids)
        return {name: counted[at] for name, at in self.name_ids.items()}

    def classes(self) -> int | None:
        if self.decided_problem() == "regression":
            return None
        return self.multi_hot.width if self.multi_hot.present else len(self.name_ids)

    def warnings(self) -> list[RowWarning]:
        if self.multi_hot.present:
            width = self.multi_hot.width or 0
            message = f"The labels are read as zeros and ones for {width} classes, LABEL_0 to LABEL_{width - 1}. "
            return [RowWarning("zeros_and_ones", message + "To name the classes, give lists of names.")]
        if self.decided_problem() == "regression" and self.forced is None and self.real_text:
            message = "The labels are numbers written as text, and are read as numbers. "
            message += "If they are names, set method.classification.problem to single_label."
            return [RowWarning("written_numbers", message)]
        return [] if self.decided_problem() == "regression" else similar_names(self.name_ids)

    def save(self, scratch: Path) -> Array | None:
        self.problem = self.decided_problem()
        if self.problem == "regression":
            return np.array(self.values, np.float32)[:, None]
        if self.multi_hot.present:
            self.names = class_names(self.multi_hot.width or 0)
            return _on_disk(self.multi_hot.table(), scratch)
        self.names = sorted(self.name_ids)
        position = np.empty(len(self.names), np.int64)  # each id's position in `names`
        position[[self.name_ids[name] for name in self.names]] = np.arange(len(self.names))
        columns = position[np.frombuffer(self.ids, np.int64)] if self.ids else np.empty(0, np.int64)
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
    """Return warnings about the first few groups of names that differ only in case or spaces."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.split()).casefold(), []).append(name)
    similar = [group for group in groups.values() if len(group) > 1][:MAX_SIMILAR]
    problem = "differ only in case or spaces, and are separate classes"
    return [RowWarning("similar_labels", f"The labels {_quoted(group)} {problem}.") for group in similar]


def _quoted(names: list[str]) -> str:
    return " and ".join(f"'{truncate(name)}'" for name in names[:5])


class TooManyLabels(Exception):
    """The table of rows and labels is too large to store."""

    def __init__(self, rows: int, names: int) -> None:
        super().__init__(f"A table of {rows:,} rows and {names:,} labels is too large to store. Use fewer labels.")


SINGLE: frozenset[Problem] = frozenset({"single_label"})
MULTI: frozenset[Problem] = frozenset({"multi_label"})
REGRESSION: frozenset[Problem] = frozenset({"regression"})
NOUNS: dict[Problem, str] = {"single_label": "single name", "multi_label": "list of names", "regression": "number"}


def label_name(label: str | int | float) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _possible(label: Label) -> frozenset[Problem]:
    """Return the problems that a label may belong to."""
    if isinstance(label, list | tuple):
        return MULTI
    if isinstance(label, str):
        return SINGLE if parse_number(label) is None else SINGLE | REGRESSION
    if parse_number(label) is None:
        return SINGLE
    return SINGLE | REGRESSION if float(label).is_integer() else REGRESSION


def _display(label: Label) -> str:
    return truncate(", ".join(map(str, label)) if isinstance(label, list | tuple) else label)
