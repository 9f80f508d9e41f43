"""A base model's chat template, run as transformers runs it (same settings, same helpers) and without transformers.

Templates come from strangers. They run in jinja2's immutable sandbox, under the limits of the process around them
(worker.rows.limits); what they render is capped here.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.rows.special_tokens import read_json, special_tokens

MAX_RENDERED = 4_000_000
"""Characters that one conversation may become."""
MAX_POWER = 10_000
"""Largest operand of ** in a template: a sandbox does not stop 9**9**9, and no signal can interrupt it."""

GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateFailure(Exception):
    """The template refused the conversation, or broke on it."""


class ChatTemplate:
    def __init__(self, sources: dict[str, str], tokens: dict[str, str]) -> None:
        """`sources`: the template called "default", and any other by its name, as transformers knows them."""
        self.sources = sources
        self.tokens = tokens
        self._compiled: dict[str, jinja2.Template] = {}

    @classmethod
    def load(cls, base: Path) -> "ChatTemplate | None":
        """The template of the base model in the folder; None if it has none."""
        sources = _sources(base)
        return cls(sources, special_tokens(base)) if sources else None

    def marks_generation(self, tools: list[dict[str, Any]] | None) -> bool:
        """Whether the template itself says which text is the assistant's."""
        return GENERATION_TAG.search(self.sources[self._name(tools)]) is not None

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        generation_marks: tuple[str, str] = ("", ""),
    ) -> str:
        """The conversation as the base model reads it, what is in {% generation %} between the two marks."""
        try:
            template = self._compile(self._name(tools))
            pieces, length = [], 0
            for piece in template.generate(
                **self.tokens,
                messages=[_with_reasoning(message) for message in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                attune_generation_marks=generation_marks,
            ):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_RENDERED:
                    raise TemplateFailure(f"it renders more than {MAX_RENDERED:,} characters")
        except jinja2.TemplateError as error:
            raise TemplateFailure(error.message or type(error).__name__) from error
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
            raise TemplateFailure(f"{type(error).__name__}: {error}") from error
        return "".join(pieces)

    def _name(self, tools: list[dict[str, Any]] | None) -> str:
        if tools and "tool_use" in self.sources:
            return "tool_use"
        if "default" not in self.sources:
            raise TemplateFailure("it has no template called default")
        return "default"

    def _compile(self, name: str) -> jinja2.Template:
        if name not in self._compiled:
            self._compiled[name] = _environment().from_string(self.sources[name])
        return self._compiled[name]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Some templates read it by its older name."""
    if "reasoning_content" not in message:
        return message
    return {"thinking": message["reasoning_content"], **message}


def _sources(base: Path) -> dict[str, str]:
    """Template files come before templates inside tokenizer_config.json, as in transformers."""
    sources = {}
    if (file := base / "chat_template.jinja").is_file():
        sources["default"] = file.read_text(encoding="utf-8")
    for file in sorted((base / "additional_chat_templates").glob("*.jinja")):
        sources[file.stem] = file.read_text(encoding="utf-8")
    if sources:
        return sources
    configured = read_json(base / "tokenizer_config.json").get("chat_template")
    if isinstance(configured, str):
        return {"default": configured}
    return {entry["name"]: entry["template"] for entry in configured or []}


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: what is inside is the assistant's."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = jinja2.nodes.Name("attune_generation_marks", "load")
        return jinja2.nodes.CallBlock(self.call_method("_mark", [marks]), [], [], body).set_lineno(line)

    @staticmethod
    def _mark(marks: tuple[str, str], caller: Callable[[], str]) -> str:
        return f"{marks[0]}{caller()}{marks[1]}"


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(operand, int | float) and abs(operand) <= MAX_POWER for operand in (left, right)):
            raise jinja2.exceptions.SecurityError("** of large numbers")
        return super().call_binop(context, operator, left, right)


class _Dict:
    """`dict(...)` in templates, without the attributes of the real type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` in templates; refuses the names that lead to Python's internals."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r}")
        super().__setitem__(name, value)


def _namespace(*args: Any, **kwargs: Any) -> _Namespace:
    namespace = _Namespace()
    for name, value in dict(*args, **kwargs).items():
        namespace[name] = value
    return namespace


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _namespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
