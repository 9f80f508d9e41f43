"""Labels that hold a zero or one for each class, as Hugging Face's tools write several labels of a text."""

from array import array

import numpy as np

from api.spec.formats import Label, RowError
from worker.shared.arrays import Array

MAX_NAMES = 10_000
MAX_CELLS = 1 << 28
"""Rows times names: a gigabyte, once they are learnt from."""


def class_names(width: int) -> list[str]:
    """Names of classes that have none, as transformers gives them."""
    return [f"LABEL_{number}" for number in range(width)]


class MultiHot:
    """A file's labels, as long as every one of them is as many zeros and ones.

    Two of them, one of each kind, may also be two names: until a label tells, they are both.
    """

    def __init__(self) -> None:
        self.width: int | None = None
        self.possible = True
        self.certain = False
        self._cells = array("b")

    def add(self, label: Label) -> None:
        """Of the next row. Raise RowError for another kind of label where those before can be nothing else."""
        if not self.possible:
            return
        fits = isinstance(label, tuple) and self.width in (None, len(label))
        if not fits:
            if self.certain:
                expected = f"an array of {self.width} zeros and ones, as the labels before it are"
                raise RowError(f"'label' is not {expected}", code="invalid_label")
            self.possible, self._cells = False, array("b")
            return
        assert isinstance(label, tuple)
        self.width = len(label)
        self.certain = self.certain or len(set(label)) < len(label)
        self._cells.extend(label)
        if len(self._cells) > MAX_CELLS or self.width > MAX_NAMES:
            raise RowError("has more zeros and ones than can be stored with those before it", code="too_many_labels")

    @property
    def seen(self) -> bool:
        return self.possible and self.width is not None

    def table(self) -> Array:
        """[rows, width]"""
        return np.frombuffer(self._cells, np.int8).reshape(-1, self.width or 1)
