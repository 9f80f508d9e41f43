"""Base models of any source to safetensors: what `worker.convert` is made of."""
