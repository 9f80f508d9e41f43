"""In which forms a job publishes its model, besides that in which it was trained."""

from typing import Literal

from api.fields import AUTO, Auto, Strict

GGUF_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose GGUF files are known to be the model."""


class Export(Strict):
    merged: Auto[bool] = AUTO
    """Publish, beside the adapter, the base's weights with the adapter's added: a whole model, in `merged/`. "auto":
    where the technique allows it and the base is small (the server's `merged_max_parameters`)."""
    gguf: Literal["f16", "q8_0"] | None = None
    """Publish the whole model as a GGUF file, too, its matrices in 16 or in 8 bits."""
