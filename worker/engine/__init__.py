"""The training engine: the loop of `worker.train` and its parts."""
