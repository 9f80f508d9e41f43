"""Users' rows to arrays of tokens: the modules of `worker.prepare`. No torch, no transformers."""
