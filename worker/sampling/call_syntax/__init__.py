"""The syntaxes in which chat templates write a call of a function, one file for each."""

from worker.sampling.call_syntax.base import CallSyntax, FunctionCall, Incomplete, Lark
from worker.sampling.call_syntax.json_object import JsonCalls
from worker.sampling.call_syntax.xml_parameters import XmlParameters

SYNTAXES: tuple[CallSyntax, ...] = (JsonCalls(), XmlParameters())

__all__ = ["SYNTAXES", "CallSyntax", "FunctionCall", "Incomplete", "Lark"]
