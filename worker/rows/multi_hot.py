"""Labels that list a 0 or 1 for each class. Hugging Face's tools write several labels of one text in this form."""

from array import array

import numpy as np

from api.spec.formats import Label, RowError
from worker.shared.arrays import Array

MAX_NAMES = 10_000
"""Maximum number of classes of a file."""
MAX_CELLS = 1 << 28
"""Maximum number of rows times classes: a gigabyte as float32."""


def class_names(width: int) -> list[str]:
    """Return transformers' default names of the classes."""
    return [f"LABEL_{number}" for number in range(width)]


class MultiHot:
    """The labels of a file, as long as all of them are lists of zeros and ones of the same length.

    A label such as [0, 1] may also be two names, "0" and "1". Both readings are kept until another label decides.
    """

    def __init__(self) -> None:
        self.width: int | None = None
        self.possible = True
        self.certain = False
        self._cells = array("b")

    def add(self, label: Label) -> None:
        """Add the next row's label. Raises RowError if the label has another form although an earlier label can only be
        zeros and ones, or if there are more zeros and ones than can be stored."""
        if not self.possible:
            return
        fits = isinstance(label, tuple) and self.width in (None, len(label))
        if not fits:
            if self.certain:
                expected = f"an array of {self.width} zeros and ones, like the labels before it"
                raise RowError(f"'label' must be {expected}", code="invalid_label")
            self.possible, self._cells = False, array("b")
            return
        assert isinstance(label, tuple)
        self.width = len(label)
        self.certain = self.certain or len(set(label)) < len(label)
        self._cells.extend(label)
        if len(self._cells) > MAX_CELLS or self.width > MAX_NAMES:
            raise RowError(
                "has more zeros and ones than can be stored: use lists of names, or fewer classes",
                code="too_many_labels",
            )

    @property
    def present(self) -> bool:
        """Whether all labels so far are lists of zeros and ones of the same length; false if there are no labels."""
        return self.possible and self.width is not None

    def table(self) -> Array:
        """Return the labels, [rows, width]."""
        return np.frombuffer(self._cells, np.int8).reshape(-1, self.width or 1)
