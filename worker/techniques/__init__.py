"""Techniques that peft has not got. A file here is the twin of one in api/spec/techniques; the others are peft's work.

Each has `add(model, technique)`, `save(model, technique, folder, base_name)`, `load(model, folder)` and
`loading_code(model_type, auto_class)`.
"""

from types import ModuleType

from worker.techniques import bottleneck

TECHNIQUES: dict[str, ModuleType] = {"bottleneck": bottleneck}
