"""The training engine: what `worker.train` is made of."""
