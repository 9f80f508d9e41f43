"""Rendering of a base model's chat template as transformers renders it (same settings, same helpers), without importing
transformers.

Templates come from strangers. They run in jinja2's immutable sandbox, under the limits of the process
(worker.rows.limits). This module also limits the length of the rendered text.
"""

import json
import re
from collections.abc import Callable, Hashable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

from api.spec.formats import Message, Messages
from worker.rows.special_tokens import read_json, special_tokens

MAX_RENDERED = 4_000_000
"""Maximum number of characters of a rendered conversation."""
TEMPLATE_SECONDS = 5
"""Time limit for the probes of a template (made-up conversations that show how it renders), before any row is
rendered."""
MAX_POWER = 10_000
"""Largest operand of ** in a template. jinja2's sandbox would allow 9**9**9, and no signal interrupts that
computation."""

THINKING = "enable_thinking"
"""The variable by which templates of Qwen3, SmolLM3 and others turn reasoning off."""
GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateFailure(Exception):
    """The template cannot render a conversation. The message gives the reason."""


class ChatTemplate:
    def __init__(self, sources: dict[str, str], tokens: dict[str, str], now: datetime | None = None) -> None:
        """`sources`: the template named "default", and any others by name, as in transformers. `tokens`: the texts of
        the special tokens by name, such as eos_token. `now`: the time that the template writes; None: the time of each
        rendering."""
        self.sources = sources
        self.tokens = tokens
        self.now = now
        self._compiled: dict[str, jinja2.Template] = {}

    @classmethod
    def load(cls, base: Path) -> "ChatTemplate | None":
        """Return the template of the base model in the folder, or None if it has none."""
        sources = _sources(base)
        return cls(sources, special_tokens(base)) if sources else None

    def at(self, now: datetime) -> "ChatTemplate":
        """Return the template with a fixed time."""
        return ChatTemplate(self.sources, self.tokens, now)

    def marks_generation(self, tools: Messages | None) -> bool:
        """Whether the template marks the assistant's text by {% generation %}."""
        return GENERATION_TAG.search(self.sources[self._name(tools)]) is not None

    def switches_thinking(self, tools: Messages | None) -> bool:
        """Return whether the template can turn reasoning off. Raises TemplateFailure."""
        try:
            parsed = environment().parse(self.sources[self._name(tools)])
        except jinja2.TemplateError as error:
            raise TemplateFailure(error.message or type(error).__name__) from error
        return THINKING in jinja2.meta.find_undeclared_variables(parsed)

    def render(
        self,
        messages: Messages,
        tools: Messages | None = None,
        *,
        add_generation_prompt: bool = False,
        thinking: bool = True,
        generation_marks: tuple[str, str] = ("", ""),
    ) -> str:
        """Return the rendered conversation, with the two `generation_marks` around the content of {% generation %}.
        `thinking`: False turns reasoning off, if the template can. Raises TemplateFailure."""
        try:
            template = self._compile(self._name(tools))
            chunks, length = [], 0
            for chunk in template.generate(
                **self.tokens,
                messages=[_with_reasoning(message) for message in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                attune_generation_marks=generation_marks,
                **({} if thinking else {THINKING: False}),
            ):
                chunks.append(chunk)
                length += len(chunk)
                if length > MAX_RENDERED:
                    raise TemplateFailure(f"the rendered text has more than {MAX_RENDERED:,} characters")
        except jinja2.TemplateError as error:
            raise TemplateFailure(error.message or type(error).__name__) from error
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
            raise TemplateFailure(f"{type(error).__name__}: {error}") from error
        return "".join(chunks)

    def _name(self, tools: Messages | None) -> str:
        if tools and "tool_use" in self.sources:
            return "tool_use"
        if "default" not in self.sources:
            raise TemplateFailure("the base model has several named chat templates, but none is named 'default'")
        return "default"

    def _compile(self, name: str) -> jinja2.Template:
        if name not in self._compiled:
            self._compiled[name] = self._environment().from_string(self.sources[name])
        return self._compiled[name]

    def _environment(self) -> ImmutableSandboxedEnvironment:
        sandbox = environment()
        sandbox.globals["strftime_now"] = self._strftime_now
        return sandbox

    def _strftime_now(self, pattern: str) -> str:
        return (self.now or datetime.now()).strftime(pattern)


def _with_reasoning(message: Message) -> Message:
    """Return the message with its reasoning also under `thinking`, an older key that some templates read."""
    if "reasoning_content" not in message:
        return message
    return {"thinking": message["reasoning_content"], **message}


def _sources(base: Path) -> dict[str, str]:
    """Return the templates by name. Files win over templates in tokenizer_config.json, as in transformers."""
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
    """The tag `{% generation %}…{% endgeneration %}`, with which a template marks the assistant's text. The text is
    rendered between the two `generation_marks`."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        sentinels = jinja2.nodes.Name("attune_generation_marks", "load")
        return jinja2.nodes.CallBlock(self.call_method("_mark", [sentinels]), [], [], body).set_lineno(line)

    @staticmethod
    def _mark(sentinels: tuple[str, str], caller: Callable[[], str]) -> str:
        return f"{sentinels[0]}{caller()}{sentinels[1]}"


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: object, right: object) -> object:
        if not all(isinstance(operand, int | float) and abs(operand) <= MAX_POWER for operand in (left, right)):
            raise jinja2.exceptions.SecurityError(f"an operand of ** is not a number of at most {MAX_POWER:,}")
        return super().call_binop(context, operator, left, right)


class _Dict:
    """`dict(...)` in templates. Unlike the real type, it has no attributes that lead to Python's internals."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Hashable], value: object = None) -> dict[Hashable, object]:
        return dict.fromkeys(keys, value)


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` in templates. Refuses names that lead to Python's internals."""

    def __setitem__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"the namespace attribute {name!r} begins with an underscore")
        super().__setitem__(name, value)


def _namespace(*args: Any, **kwargs: Any) -> _Namespace:
    namespace = _Namespace()
    for name, value in dict(*args, **kwargs).items():
        namespace[name] = value
    return namespace


def environment() -> ImmutableSandboxedEnvironment:
    """Return the sandbox that templates run in."""
    sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    sandbox.filters["tojson"] = _tojson
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["dict"] = _Dict()
    sandbox.globals["namespace"] = _namespace
    return sandbox


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)
