"""Conversion of base models from any source to safetensors: the parts of `worker.convert`."""
