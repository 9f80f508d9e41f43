"""Calls of functions in an answer: a grammar that lets an answer call only the offered functions, and a reader that
finds the calls in an answer's text."""

import json
import re
from collections.abc import Mapping, Sequence

from api.spec.fields import JsonObject
from api.spec.tools import NamedTool, Tool, ToolChoice
from worker.sampling.call_form import CallForm
from worker.sampling.call_syntax import FunctionCall, Incomplete, Lark
from worker.shared.partial_markers import undecided_chars

MAX_CALLS = 16
"""Maximum number of calls that a grammar allows in one answer."""
ID_RULE = "/[a-zA-Z0-9]{9}/"


class CallReader:
    """Separates the calls in a growing answer from its text."""

    def __init__(self, form: CallForm, tools: Sequence[Tool], *, only_one: bool) -> None:
        self._syntax, self._marker, self._only_one = form.syntax, form.marker, only_one
        self._schemas = {tool.function.name: tool.function.schema_of_arguments for tool in tools}
        words = {form.marker, *form.opening.split(), *(form.between or "").split(), *form.end.split()}
        self._words = sorted((word for word in words if not form.head.startswith(word)), key=len, reverse=True)
        self._separators = re.compile(
            "(?:" + "|".join(map(re.escape, self._words)) + r"|[\s,;])*" if self._words else r"[\s,;]*"
        )
        self._held, self._reading = "", False
        self.found = 0
        """Number of complete calls so far."""

    @property
    def complete(self) -> bool:
        return self._only_one and self.found > 0

    def add(self, text: str) -> tuple[str, list[FunctionCall]]:
        """Add text to the answer. Return the text that belongs to no call, and the calls that are complete."""
        self._held += text
        plain, calls = "", list[FunctionCall]()
        while not self.complete:
            if not self._reading:
                start = self._held.find(self._marker)
                if start < 0:
                    return plain + self._release(len(self._held) - undecided_chars(self._held, self._marker)), calls
                plain += self._release(len(self._held[:start].rstrip()))
                self._reading = True
            call = self._next_call()
            if call is not None:
                calls.append(call)
                self.found += 1
            elif self._reading:
                break
            elif self._held.lstrip().startswith(self._marker):  # no call, though it began like one
                plain += self._release(self._held.index(self._marker) + len(self._marker))
        return plain, calls

    def finish(self) -> str:
        """Return the rest of the text. An incomplete call is part of it if it is the answer's first; an incomplete
        later call is dropped."""
        rest = self._release(len(self._held))
        return "" if self.found and self._reading else rest

    def _next_call(self) -> FunctionCall | None:
        """Return the next call, if it is complete. If the text does not continue with a call, stop reading calls."""
        match = self._separators.match(self._held)
        start = match.end() if match else 0
        rest = self._held[start:]
        if not rest or any(word.startswith(rest) for word in self._words):
            return None
        try:
            read = self._syntax.read(rest, self._schemas)
        except Incomplete:
            return None
        call, size = read or (None, 0)
        self._reading = call is not None
        if self.found or call is not None:
            self._held = rest[size:]
        return call

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text


def call_grammar(
    form: CallForm,
    tools: Sequence[Tool],
    choice: ToolChoice,
    *,
    parallel: bool,
    answer: JsonObject | None,
    specials: Mapping[str, int],
    options: JsonObject,
) -> str | None:
    """Return the grammar of an answer, in llguidance's dialect of Lark; None if every answer is allowed.

    `parallel`: an answer may have several calls. `answer`: the schema of an answer without calls; None: any text.
    `specials`: ids of special tokens by their texts. `options`: llguidance's options for JSON. Raise ValueError if a
    grammar of this form cannot enforce a function's schema.
    """
    named = choice.function.name if isinstance(choice, NamedTool) else None
    functions = [tool.function for tool in tools if named in (None, tool.function.name)]
    if choice == "none" or (choice == "auto" and answer is None and not any(each.strict for each in functions)):
        return None

    def lark(text: str) -> str:
        """Return the text as terminals of a Lark grammar: quoted strings, and `<[id]>` for each special token, which a
        string would not match."""
        parts = re.split("(" + "|".join(map(re.escape, specials)) + ")", text) if specials else [text]
        return " ".join(f"<[{specials[part]}]>" if part in specials else json.dumps(part) for part in parts if part)

    rules = []
    for index, function in enumerate(functions):
        held = choice != "auto" or function.strict
        schema = function.schema_of_arguments if held else None
        tail = f" {ID_RULE} ".join(map(lark, form.tail.split(form.call_id))) if form.call_id else lark(form.tail)
        opening = lark(form.head + function.name + form.middle)
        rules.append(f"call_{index}: {opening} arguments_{index} {tail}")
        rules += form.syntax.argument_rules(f"arguments_{index}", schema, lark, options)
    more = f"({lark(form.between)} call){{0,{MAX_CALLS - 1}}}" if parallel and form.between is not None else ""
    rules.append("call: " + " | ".join(f"call_{index}" for index in range(len(functions))))
    calls = f"call {more} {lark(form.end)}"
    if choice != "auto":
        rules.append(f"start: {lark(form.opening)} {calls}")
    elif answer is None:
        rules += _free_text(form, calls, lark)
    else:
        rules += [
            f"start: answer | {lark(form.opening)} {calls}",
            f"answer: %json {json.dumps(answer | {'x-guidance': options})}",
        ]
    return "\n".join(rules)


def _free_text(form: CallForm, calls: str, lark: Lark) -> list[str]:
    """Return the rules of an answer that is any text, or text followed by calls."""
    if not form.opening:
        return [f"start: TEXT | {calls}", rf"TEXT: /([^{form.head[0]}](.|\n)*)?/"]
    marker = lark(form.marker)
    lazy = "" if marker.startswith("<") else "[lazy]"
    rest = lark(form.opening.removeprefix(form.marker))
    return [f"start: TEXT | trigger {rest} {calls}", f"trigger{lazy}: TEXT {marker}", r"TEXT: /(.|\n)*/"]
