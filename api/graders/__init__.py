"""Graders: what gives an answer its reward."""

from typing import Any

Grader = dict[str, Any]
