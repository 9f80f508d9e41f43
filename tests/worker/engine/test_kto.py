"""The mismatched pairs from which KTO estimates the divergence."""

import numpy as np

from worker.methods.kto import with_mismatched
from worker.shared.arrays import Rows


def test_a_mismatched_pair_is_no_longer_than_rows_may_be() -> None:
    """A long prompt with another row's long answer would be beyond what the model reads."""
    weights = np.array([0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1], np.float32)
    rows = Rows(np.arange(12, dtype=np.int32), weights, np.array([0, 6]), np.array([6, 12]))
    both = with_mismatched(rows, seed=0, max_length=6)
    assert [tokens.tolist() for tokens, _ in both][1] == [0, 1, 2, 3, 4, 7]
    assert (both.ends - both.starts).max() == 6
