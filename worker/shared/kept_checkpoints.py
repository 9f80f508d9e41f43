"""How many checkpoints of a job are kept, in the trainer's run folder and in storage."""

KEPT_CHECKPOINTS = 3
"""How many of the newest checkpoints are kept. The best one is kept as well."""
