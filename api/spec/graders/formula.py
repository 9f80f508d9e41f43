"""The formula of a multi grader: arithmetic over the rewards of its parts.

Python's parser reads the formula, but nothing in it runs as Python: this module walks the syntax tree, and allows only
the operators and functions below. All numbers are floats, so a power is a float or an overflow, never an integer of a
million digits.
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
"""Maximum length of a formula, in characters."""
MAX_DEPTH = 32
"""Maximum depth of nested operations."""

_DISALLOWED = re.compile(r"[^\w\s.,+\-*/^()]", re.ASCII)

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # ValueError for a negative base and a fraction; `**` gives a complex number
}

SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}

UNARY_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "ceil": math.ceil,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "sqrt": math.sqrt,
}

VARIADIC_FUNCTIONS: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min}

FUNCTIONS = UNARY_FUNCTIONS.keys() | VARIADIC_FUNCTIONS.keys()

ALLOWED = f"use names of graders, numbers, + - * / ^ ( ) and {', '.join(sorted(FUNCTIONS))}"


class FormulaError(ValueError):
    """The formula is not valid arithmetic over the names of the parts."""


def variables(formula: str) -> frozenset[str]:
    """Return the names that the formula uses. Raises FormulaError if the formula is invalid."""
    return frozenset(_check(_parse(formula), 0))


def evaluate(formula: str, rewards: Mapping[str, float]) -> float:
    """Return the value of a valid formula. Raises GradingError if the value is not a finite number."""
    try:
        result = float(_value(_parse(formula), rewards))
    except (ArithmeticError, ValueError) as error:  # division by zero, overflow, logarithm of a negative number
        raise GradingError("other_error", f"calculate_output cannot be calculated: {error}") from None
    if not math.isfinite(result):
        raise GradingError("other_error", f"calculate_output gives {result}, which is not a finite number")
    return result


@lru_cache(maxsize=256)
def _parse(formula: str) -> ast.expr:
    if len(formula) > MAX_LENGTH:
        raise FormulaError(f"the formula has {len(formula)} characters; the most is {MAX_LENGTH}")
    if disallowed := _DISALLOWED.search(formula):
        raise FormulaError(f"'{truncate(disallowed[0])}' is not allowed in a formula: {ALLOWED}")
    # OpenAI writes a power as ^, with the precedence of a power. Formulas have no strings that could contain a ^.
    source = " ".join(formula.replace("^", "**").split())
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FormulaError(f"'{truncate(formula)}' is not a valid formula") from None


def _check(node: ast.expr, depth: int) -> set[str]:
    """Return the names under the node. Raises FormulaError if a formula may not contain the node."""
    if depth > MAX_DEPTH:
        raise FormulaError(f"the formula has more than {MAX_DEPTH} nested operations")
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
            if not args or (name in UNARY_FUNCTIONS and len(args) != 1):
                raise FormulaError(f"{name} takes {'one number' if name in UNARY_FUNCTIONS else 'one or more numbers'}")
            return set().union(*(_check(arg, depth + 1) for arg in args))
    raise FormulaError(f"'{truncate(ast.unparse(node), 40)}' is not allowed in a formula: {ALLOWED}")


def _number(number: float) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise FormulaError("a number in the formula is too large")
    return value


def _value(node: ast.expr, rewards: Mapping[str, float]) -> float:
    """Return the value of a node that `_check` accepted."""
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
            return float(
                UNARY_FUNCTIONS[name](values[0]) if name in UNARY_FUNCTIONS else VARIADIC_FUNCTIONS[name](values)
            )
    raise AssertionError(ast.dump(node))
