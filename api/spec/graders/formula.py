"""The formula of a multi grader: arithmetic over the rewards of its parts.

Python's parser reads it, nothing of Python runs it: the tree is walked here, and only what is named below may be in it.
All numbers are floats, so that a power is a float or an overflow, never an integer of a million digits.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from api.spec.formats.base import truncate
from api.spec.graders.base import GradingError

MAX_LENGTH = 1024
"""Characters."""
MAX_DEPTH = 32
"""Nested operations."""

_FOREIGN = re.compile(r"[^\w\s.,+\-*/^()]", re.ASCII)

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # of a negative base to a fraction: an error here, a complex number by `**`
}

SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}

OF_ONE: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "ceil": math.ceil,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "sqrt": math.sqrt,
}

OF_MANY: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min}

FUNCTIONS = OF_ONE.keys() | OF_MANY.keys()

ALLOWED = f"names of graders, numbers, + - * / ^ ( ) and {', '.join(sorted(FUNCTIONS))} may"


class FormulaError(ValueError):
    """What in a formula is not arithmetic over the parts."""


def variables(formula: str) -> frozenset[str]:
    """The names that it uses; FormulaError if it is no formula."""
    return frozenset(_check(_parse(formula), 0))


def evaluate(formula: str, rewards: Mapping[str, float]) -> float:
    """GradingError where there is no finite result."""
    try:
        result = float(_value(_parse(formula), rewards))
    except (ArithmeticError, ValueError) as error:  # division by zero, overflow; the logarithm of what is negative
        raise GradingError("other_error", f"calculate_output cannot be calculated: {error}") from None
    if not math.isfinite(result):
        raise GradingError("other_error", f"calculate_output gives {result}, which is no reward")
    return result


@lru_cache(maxsize=256)
def _parse(formula: str) -> ast.expr:
    if len(formula) > MAX_LENGTH:
        raise FormulaError(f"a formula may have {MAX_LENGTH} characters, not {len(formula)}")
    if foreign := _FOREIGN.search(formula):
        raise FormulaError(f"'{truncate(foreign[0])}' may not be in a formula: {ALLOWED}")
    # OpenAI writes a power as ^, and so it binds as one; there are no strings in a formula that could hold another.
    source = " ".join(formula.replace("^", "**").split())
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FormulaError(f"'{truncate(formula)}' is no formula that can be read") from None


def _check(node: ast.expr, depth: int) -> set[str]:
    """The names under the node."""
    if depth > MAX_DEPTH:
        raise FormulaError(f"the formula is nested more than {MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            _number(number)
            return set()
        case ast.Name(id=name) if name not in FUNCTIONS:
            return {name}
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in SIGNS:
            return _check(operand, depth + 1)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATORS:
            return _check(left, depth + 1) | _check(right, depth + 1)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            if not args or (name in OF_ONE and len(args) != 1):
                raise FormulaError(f"{name} takes {'one number' if name in OF_ONE else 'one or more numbers'}")
            return set().union(*(_check(arg, depth + 1) for arg in args))
    raise FormulaError(f"'{truncate(ast.unparse(node), 40)}' may not be in a formula: {ALLOWED}")


def _number(number: float) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise FormulaError("a number in the formula is too large")
    return value


def _value(node: ast.expr, rewards: Mapping[str, float]) -> float:
    """Of a node that `_check` has let through."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return _number(number)
        case ast.Name(id=name):
            return rewards[name]
        case ast.UnaryOp(op=sign, operand=operand):
            return SIGNS[type(sign)](_value(operand, rewards))
        case ast.BinOp(left=left, op=sign, right=right):
            return OPERATORS[type(sign)](_value(left, rewards), _value(right, rewards))
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_value(arg, rewards) for arg in args]
            return float(OF_ONE[name](values[0]) if name in OF_ONE else OF_MANY[name](values))
    raise AssertionError(ast.dump(node))
