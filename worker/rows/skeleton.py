"""Render many conversations from one run of their chat template.

For each sequence of roles, the template runs once with placeholder objects instead of the message contents. The result
is a skeleton: fixed text with slots, which `fill` completes with the contents of each conversation. A template may
print a placeholder, concatenate it, strip it, or test whether it contains a text. The placeholder answers such a test
with no, so a conversation that does contain the text is rendered by the template instead. If the template uses a
placeholder in any other way, there is no skeleton, and the template renders every conversation with these roles.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.filters import do_trim
from jinja2.sandbox import ImmutableSandboxedEnvironment

from api.spec.formats import Messages
from worker.rows.chat_template import MAX_RENDERED, ChatTemplate, TemplateFailure, environment
from worker.rows.reasoning import CLOSING

ROLES = ("system", "user", "assistant")
MAX_MESSAGES, MAX_SKELETONS = 100, 1_000
"""Maximum number of messages of a skeleton, and of skeletons that are kept."""
TEXT_START, TEXT_END = 0, 1
"""Numbers of a message's sentinels (worker.rows.sentinels)."""
GENERATION = -1
"""Takes the place of a message's index in a `Place` where {% generation %} begins (TEXT_START) or ends (TEXT_END)."""

OPEN, CLOSE, BEGIN, END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
"""Noncharacters of Unicode. OPEN and CLOSE surround the number of a slot in the rendered text; BEGIN and END mark the
ends of {% generation %}."""
MARKS = re.compile(f"{OPEN}(\\d+)(s?){CLOSE}|({BEGIN})|({END})")
BUFFERING: tuple[type[nodes.Node], ...] = (nodes.Macro, nodes.FilterBlock, nodes.AssignBlock, nodes.Block)
BUFFERING += (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
"""Statements that turn output of the template into a value again, which the template could then inspect."""

Place = tuple[int, int, int]
"""The place of a sentinel: (position in the text, index of the message or GENERATION, TEXT_START or TEXT_END)."""


class Inspected(BaseException):
    """A template uses a placeholder in a way that a skeleton does not allow. A BaseException, so that no handler of
    template errors catches it."""


@dataclass(frozen=True)
class Slot:
    """The place of a content in a skeleton."""

    message: int
    stripped: bool = False
    """Whether the template strips white space from the content."""


def _inspected(*_: Any) -> NoReturn:
    raise Inspected


class Copied:
    """A placeholder for a content, or for texts joined with contents, while a template runs."""

    def __init__(self, parts: tuple[str | Slot, ...], absent: set[str]) -> None:
        """`absent`: receives the texts that the template has searched for."""
        self.parts, self._absent = parts, absent

    def __add__(self, other: object) -> "Copied":
        return Copied((*self.parts, *_parts(other)), self._absent)

    def __radd__(self, other: object) -> "Copied":
        return Copied((*_parts(other), *self.parts), self._absent)

    def __bool__(self) -> bool:
        return True  # contents are never blank here

    def __contains__(self, text: object) -> bool:
        slot = self._slot()
        if not isinstance(text, str) or not text or slot.stripped:
            raise Inspected
        self._absent.add(text)
        return False

    def startswith(self, text: object) -> bool:
        return text in self

    def endswith(self, text: object) -> bool:
        return text in self

    def strip(self, *characters: object) -> "Copied":
        if characters:
            raise Inspected
        return Copied((replace(self._slot(), stripped=True),), self._absent)

    def _slot(self) -> Slot:
        """Return the only part. Raises Inspected if there are more: a searched text could then begin in one part and
        end in the next."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Slot):
            return self.parts[0]
        raise Inspected

    __getattr__ = __getitem__ = __len__ = __iter__ = __reversed__ = __hash__ = __eq__ = __ne__ = _inspected
    __lt__ = __le__ = __gt__ = __ge__ = __str__ = __repr__ = __format__ = __mod__ = __rmod__ = __mul__ = _inspected
    __rmul__ = __call__ = __int__ = __float__ = __index__ = _inspected


def _parts(value: object) -> tuple[str | Slot, ...]:
    if isinstance(value, Copied):
        return value.parts
    if type(value) is str:
        return (value,)
    raise Inspected


@dataclass(frozen=True)
class Skeleton:
    parts: list[str | Slot | Place]
    """Texts, slots of contents, and the ends of {% generation %}, whose positions are set by `fill`."""
    absent: frozenset[str]
    """Texts that no content may contain."""

    def fill(self, messages: Messages) -> tuple[str, list[Place]] | None:
        """Return the rendered messages and the places of their sentinels, or None if the messages contain a text that
        must be absent, or are too long."""
        contents: list[str] = [message["content"] for message in messages]
        if any(text in content for text in self.absent for content in contents):
            return None
        texts: list[str] = []
        places: list[Place] = []
        at = 0
        for part in self.parts:
            if isinstance(part, tuple):
                places.append((at, *part[1:]))
                continue
            if isinstance(part, str):
                text = part
            else:
                content = contents[part.message]
                core = content.strip()
                text = core if part.stripped else content
                start = at if len(core) == len(text) else at + len(text) - len(text.lstrip())
                if messages[part.message]["role"] == "assistant":
                    places.append((start, part.message, TEXT_START))
                places.append((start + len(core), part.message, TEXT_END))
            texts.append(text)
            at += len(text)
        return ("".join(texts), places) if at <= MAX_RENDERED // 2 else None


@dataclass
class Skeletons:
    """The skeletons of one chat template."""

    template: ChatTemplate
    known: dict[tuple[str, ...], Skeleton | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._copying = _CopyingTemplate(self.template.sources, self.template.tokens)

    def fill(self, messages: Messages) -> tuple[str, list[Place]] | None:
        """Return the rendered messages and the places of their sentinels; None if the template must render them."""
        if not 0 < len(messages) <= MAX_MESSAGES or not all(map(_is_simple, messages)):
            return None
        roles = tuple([message["role"] for message in messages])
        if roles not in self.known:
            if len(self.known) >= MAX_SKELETONS:
                return None
            self.known[roles] = self._copying.skeleton(roles)
        skeleton = self.known[roles]
        return None if skeleton is None else skeleton.fill(messages)


def _is_simple(message: dict[str, Any]) -> bool:
    """Whether the message has only a role and a text, without reasoning."""
    if message.keys() != {"role", "content"} or message["role"] not in ROLES:
        return False
    content: str = message["content"]
    return bool(content) and not content.isspace() and CLOSING not in content


class _CopyingTemplate(ChatTemplate):
    """A chat template that writes the numbers of slots instead of contents."""

    def skeleton(self, roles: tuple[str, ...]) -> Skeleton | None:
        """Return the skeleton of conversations with these roles, or None if the template itself must render each of
        them."""
        texts = (*self.sources.values(), *self.tokens.values())
        if any(mark in text for text in texts for mark in (OPEN, CLOSE, BEGIN, END)):
            return None
        absent: set[str] = set()
        messages = [{"role": role, "content": Copied((Slot(number),), absent)} for number, role in enumerate(roles)]
        try:
            text = self.render(messages, generation_marks=(BEGIN, END)) if self._only_writes() else None
        except (TemplateFailure, jinja2.TemplateError, Inspected):
            return None
        return None if text is None else Skeleton(list(_split(text)), frozenset(absent))

    def _only_writes(self) -> bool:
        """Return whether all output of the template becomes its text, so that no statement reads the output as a
        value."""
        source = self.sources.get("default", "")
        tree = environment().parse(source)
        calls = (block.call.node for block in tree.find_all(nodes.CallBlock))
        return next(tree.find_all(BUFFERING), None) is None and all(
            isinstance(call, nodes.ExtensionAttribute) for call in calls
        )

    def _environment(self) -> ImmutableSandboxedEnvironment:
        copying = environment()
        copying.finalize = _named
        copying.filters["trim"] = _trim
        copying.tests["string"] = lambda value: isinstance(value, str | Copied)
        for changing in (copying.filters, "random"), (copying.globals, "lipsum"), (copying.globals, "strftime_now"):
            changing[0][changing[1]] = _inspected  # their text differs from call to call
        return copying


def _named(value: object) -> object:
    """Return what the template writes for a value: for a placeholder, the marked numbers of its slots."""
    if not isinstance(value, Copied):
        return value
    return "".join(
        part if isinstance(part, str) else f"{OPEN}{part.message}{'s' if part.stripped else ''}{CLOSE}"
        for part in value.parts
    )


def _trim(value: Any, chars: str | None = None) -> Any:
    if isinstance(value, Copied):
        return value.strip() if chars is None else _inspected()
    return do_trim(value, chars)


def _split(text: str) -> Iterator[str | Slot | Place]:
    """Yield the parts of a rendered text that has numbers of slots."""
    at = 0
    for mark in MARKS.finditer(text):
        if mark.start() > at:
            yield text[at : mark.start()]
        at = mark.end()
        message, stripped, begin, _ = mark.groups()
        if message is not None:
            yield Slot(int(message), bool(stripped))
        else:
            yield 0, GENERATION, TEXT_START if begin else TEXT_END
    if at < len(text):
        yield text[at:]
