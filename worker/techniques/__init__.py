"""Techniques that peft has not got: one module each, with `add`, `save`, `load` and `HOW_TO_LOAD`."""

from types import ModuleType

TECHNIQUES: dict[str, ModuleType] = {}
