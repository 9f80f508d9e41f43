"""Users' rows to arrays: what `worker.prepare` is made of. No torch, no transformers."""
