"""The checkpoints of a job that stay: in the trainer's run folder, and in storage."""

KEPT_CHECKPOINTS = 3
"""The newest; the best one is kept besides."""
