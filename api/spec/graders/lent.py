"""Functions of Attune's process that the scripts of `python` graders may call, as modules to import.

They run outside the sandbox, whose limits do not hold for them. They therefore read texts only, refuse long ones, and
share a time limit of their own.
"""

import string
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pydantic_monty as monty
from rapidfuzz import fuzz, utils
from rapidfuzz.distance import Levenshtein

from api.spec.graders.similarity import METRICS

MAX_CHARS = 20_000
"""Maximum length of a text, in characters."""
MAX_SLOW_CHARS = 4_000
"""The same for functions whose time grows with the cube of the length."""

_COMPARISONS: dict[str, dict[Callable[..., Any], int]] = {
    "rapidfuzz.fuzz": {
        fuzz.ratio: MAX_CHARS,
        fuzz.QRatio: MAX_CHARS,
        fuzz.token_sort_ratio: MAX_CHARS,
        fuzz.token_set_ratio: MAX_CHARS,
        fuzz.token_ratio: MAX_CHARS,
        fuzz.WRatio: MAX_SLOW_CHARS,
        fuzz.partial_ratio: MAX_SLOW_CHARS,
        fuzz.partial_token_sort_ratio: MAX_SLOW_CHARS,
        fuzz.partial_token_set_ratio: MAX_SLOW_CHARS,
        fuzz.partial_token_ratio: MAX_SLOW_CHARS,
    },
    "rapidfuzz.distance.Levenshtein": {
        Levenshtein.distance: MAX_CHARS,
        Levenshtein.similarity: MAX_CHARS,
        Levenshtein.normalized_distance: MAX_CHARS,
        Levenshtein.normalized_similarity: MAX_CHARS,
    },
}
_CONSTANTS = {name: value for name, value in vars(string).items() if isinstance(value, str) and name[0] != "_"}


class Lender:
    """The modules of one run of a script."""

    def __init__(self, seconds: float) -> None:
        """Make the modules. `seconds`: the time limit of all calls together."""
        self._seconds, self._used = seconds, 0.0

    def modules(self) -> dict[str, monty.ExternalModule]:
        levenshtein = self._comparisons("rapidfuzz.distance.Levenshtein")
        process = {"default_process": self._timed(utils.default_process, MAX_CHARS)}
        rapidfuzz = {
            "fuzz": self._comparisons("rapidfuzz.fuzz"),
            "utils": monty.ExternalModule(process, stubs="def default_process(sentence: str) -> str: ...\n"),
            "distance": monty.ExternalModule({"Levenshtein": levenshtein}, stubs=""),
        }
        similarity = "def similarity(metric: str, text: str, reference: str) -> float: ...\n"
        constants = "".join(f"{name}: str\n" for name in _CONSTANTS)
        return {
            "attune": monty.ExternalModule({"similarity": self._timed(_similarity, MAX_CHARS)}, stubs=similarity),
            "rapidfuzz": monty.ExternalModule(rapidfuzz, stubs=""),
            "string": monty.ExternalModule(_CONSTANTS, stubs=constants),
            "__future__": monty.ExternalModule({"annotations": None}, stubs="annotations: None\n"),
        }

    def _comparisons(self, module: str) -> monty.ExternalModule:
        functions = {
            function.__name__: self._timed(_processed(function), longest)
            for function, longest in _COMPARISONS[module].items()
        }
        stub = "def {}(s1: str, s2: str, *, processor: object = None, score_cutoff: object = None) -> float: ...\n"
        return monty.ExternalModule(functions, stubs="".join(stub.format(name) for name in functions))

    def _timed(self, function: Callable[..., Any], longest: int) -> Callable[..., Any]:
        def lent(*texts: object, **options: object) -> object:
            for text in texts:
                if not isinstance(text, str):
                    raise TypeError(f"{function.__name__} reads texts, not {type(text).__name__}")
                if len(text) > longest:
                    raise ValueError(f"{function.__name__} reads texts of at most {longest:,} characters")
            if self._used > self._seconds:
                raise TimeoutError(f"the script's calls of lent functions took more than {self._seconds:g} s")
            began = perf_counter()
            try:
                return function(*texts, **options)
            finally:
                self._used += perf_counter() - began

        return lent


def _similarity(metric: str, text: str, reference: str) -> float:
    if metric not in METRICS:
        raise ValueError(f"similarity: the metric is one of {', '.join(METRICS)}")
    return METRICS[metric](text, reference)


def _processed(compare: Callable[..., Any]) -> Callable[..., Any]:
    """Return the comparison with rapidfuzz's option `processor`, as which the sandbox passes a function's name."""

    def processed(s1: str, s2: str, *, processor: object = None, score_cutoff: float | None = None) -> float:
        if processor is not None and not str(processor).endswith("utils.default_process"):
            raise ValueError(f"{compare.__name__}: the only processor is rapidfuzz.utils.default_process")
        process = None if processor is None else utils.default_process
        return float(compare(s1, s2, processor=process, score_cutoff=score_cutoff))

    processed.__name__ = compare.__name__
    return processed
