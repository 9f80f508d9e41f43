"""Sums that a resumed training repeats exactly."""

import torch


def use_deterministic_algorithms() -> None:
    """On a CPU, let torch add in a fixed order, so that a resumed training produces the same bytes.

    On a GPU, FlashAttention's backward pass adds in no fixed order whatever the setting, and the setting makes each
    write at an index sort its indices first.
    """
    if torch.cuda.is_available():
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
