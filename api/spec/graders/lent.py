"""Functions of Attune's own process that the scripts of `python` graders may import and call.

The functions run outside the sandbox, whose limits do not hold for them. They therefore accept only texts, and values
that JSON can hold, refuse long ones, and share a time limit of their own.
"""

import json
import string
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import Any

import pydantic_monty as monty
from jsonschema_rs import Validator
from rapidfuzz import fuzz, utils
from rapidfuzz.distance import Levenshtein

from api.spec.evals.item_schema import validator
from api.spec.graders.similarity import METRICS

MAX_CHARS = 20_000
"""Maximum length of a text, in characters."""
MAX_SCHEMA_CHARS = 8_000
"""Maximum length of a JSON Schema, in characters."""
MAX_SLOW_CHARS = 4_000
"""Maximum length of a text for functions whose time grows with the cube of the length."""

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
    """The modules of lent functions for one run of a script."""

    def __init__(self, seconds: float) -> None:
        """Set the time limit of all calls together, in seconds."""
        self._seconds, self._used = seconds, 0.0

    def modules(self) -> dict[str, monty.ExternalModule]:
        levenshtein = self._comparisons("rapidfuzz.distance.Levenshtein")
        process = {"default_process": self._timed(utils.default_process, MAX_CHARS)}
        rapidfuzz = {
            "fuzz": self._comparisons("rapidfuzz.fuzz"),
            "utils": monty.ExternalModule(process, stubs="def default_process(sentence: str) -> str: ...\n"),
            "distance": monty.ExternalModule({"Levenshtein": levenshtein}, stubs=""),
        }
        attune = {"similarity": self._timed(_similarity, MAX_CHARS), "matches_schema": self._timed_values(_matches)}
        stubs = (
            "def similarity(metric: str, text: str, reference: str) -> float: ...\n"
            "def matches_schema(value: object, schema: object) -> bool: ...\n"
        )
        constants = "".join(f"{name}: str\n" for name in _CONSTANTS)
        return {
            "attune": monty.ExternalModule(attune, stubs=stubs),
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
            return self._within_time(function, *texts, **options)

        return lent

    def _timed_values(self, function: Callable[[str, str], bool]) -> Callable[[object, object], bool]:
        def lent(value: object, schema: object) -> bool:
            return bool(self._within_time(lambda: function(_as_json("value", value), _as_json("schema", schema))))

        return lent

    def _within_time(self, function: Callable[..., Any], *texts: object, **options: object) -> object:
        if self._used > self._seconds:
            raise TimeoutError(
                f"the script's calls of functions of attune and rapidfuzz took more than {self._seconds:g} s"
            )
        began = perf_counter()
        try:
            return function(*texts, **options)
        finally:
            self._used += perf_counter() - began


def _as_json(name: str, value: object) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"matches_schema: JSON cannot hold the {name}") from None
    longest = MAX_SCHEMA_CHARS if name == "schema" else MAX_CHARS
    if len(text) > longest:
        raise ValueError(f"matches_schema: the {name} has {len(text):,} characters as JSON, and may have {longest:,}")
    return text


def _matches(value: str, schema: str) -> bool:
    return _validator(schema).is_valid(json.loads(value))


@lru_cache(maxsize=16)
def _validator(schema: str) -> Validator:
    if '"$ref"' in schema or '"$dynamicRef"' in schema or '"$recursiveRef"' in schema:
        raise ValueError("matches_schema: write the schema without $ref: references may take exponential time")
    return validator(json.loads(schema))


def _similarity(metric: str, text: str, reference: str) -> float:
    if metric not in METRICS:
        raise ValueError(f"similarity: the metric must be one of {', '.join(METRICS)}")
    return METRICS[metric](text, reference)


def _processed(compare: Callable[..., Any]) -> Callable[..., Any]:
    """Return the comparison with rapidfuzz's option `processor`. The option arrives as the name of a function, because
    the sandbox does not pass functions."""

    def processed(s1: str, s2: str, *, processor: object = None, score_cutoff: float | None = None) -> float:
        if processor is not None and not str(processor).endswith("utils.default_process"):
            raise ValueError(f"{compare.__name__}: the only processor is rapidfuzz.utils.default_process")
        process = None if processor is None else utils.default_process
        return float(compare(s1, s2, processor=process, score_cutoff=score_cutoff))

    processed.__name__ = compare.__name__
    return processed
