"""A few rows that stand for all of them."""

import numpy as np

from worker.arrays import Rows


def drawn(rows: Rows, count: int, seed: int) -> Rows:
    """Return `count` of the rows, drawn with the seed, in their file's order; all of them where there are no more.

    Where rows have labels, each label has the share that it has of all rows, to within a row; of numbers, each part of
    their range has (systematic sampling of the rows in the order of their labels). Files are often sorted by class,
    source or date: the first rows would be of one kind.
    """
    if count >= len(rows):
        return rows
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    if rows.labels is not None:
        _, kinds = np.unique(rows.labels, axis=0, return_inverse=True)
        order = order[np.argsort(kinds.reshape(-1)[order], kind="stable")]
    picked = ((np.arange(count) + 0.5) * len(rows) / count).astype(np.int64)
    return rows.take(np.sort(order[picked]))
