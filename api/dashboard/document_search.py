"""The search of the documentation: blocks of the pages that have all words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from markdown_it.token import Token

MAX_WORDS = 8
MAX_CHARACTERS = 100
MAX_RESULTS = 40
CUT = 240
"""Maximum number of characters of a block that a result shows."""


@dataclass(frozen=True)
class Passage:
    """A paragraph, a row of a table, a block of code, or a heading without its section."""

    anchor: str
    heading: str
    text: str

    @cached_property
    def lower_heading(self) -> str:
        return f"{self.anchor} {self.heading}".lower()

    @cached_property
    def lower_text(self) -> str:
        return " ".join(self.text.lower().split())


@dataclass(frozen=True)
class Result:
    page: str
    anchor: str
    heading: str
    text: str


def passages(tokens: Sequence[Token]) -> Iterator[Passage]:
    """Yield the passages of a page whose tokens have their anchors."""
    anchor = heading = row_anchor = ""
    row: list[str] = []
    for token, content in pairwise([*tokens, tokens[-1]]):
        if token.type == "heading_open":
            anchor, heading = str(token.attrGet("id")), plain(content)
            yield Passage(anchor, heading, "")
        elif token.type == "tr_open":
            row, row_anchor = [], ""
        elif token.type in ("td_open", "th_open"):
            row.append(plain(content))
            row_anchor = row_anchor or next(
                (str(id_) for child in content.children or [] if (id_ := child.attrGet("id"))), ""
            )
        elif token.type == "tr_close":
            yield Passage(row_anchor or anchor, heading, " · ".join(row))
        elif token.type in ("paragraph_open", "fence"):
            yield Passage(anchor, heading, token.content if token.type == "fence" else plain(content))


def plain(content: Token) -> str:
    """Return the text of an inline token, without its markup."""
    return "".join(" " if child.type == "softbreak" else child.content for child in content.children or [])


def search(pages: Mapping[str, Sequence[Passage]], query: str) -> list[Result]:
    """Return one passage for each anchor whose heading and text have all words.

    Those with the words side by side come first, then those with words in the heading. `pages`: the passages of each
    page by the page's name, in the order of the results.
    """
    words = query[:MAX_CHARACTERS].lower().split()[:MAX_WORDS]
    phrase = " ".join(words)
    found: dict[tuple[str, str], tuple[int, Result]] = {}
    for page, blocks in pages.items() if words else ():
        for block in blocks:
            heading, text = block.lower_heading, block.lower_text
            if not all(word in text or word in heading for word in words):
                continue
            score = sum(word in heading for word in words) + len(words) * (phrase in text or phrase in heading)
            known = found.get((page, block.anchor))
            if known is None or score > known[0] or not known[1].text:
                result = Result(page, block.anchor, block.heading, _cut(block.text, words))
                found[page, block.anchor] = (max(score, known[0] if known else 0), result)
    ranked = sorted(found.values(), key=lambda entry: -entry[0])
    return [result for _, result in ranked[:MAX_RESULTS]]


def _cut(text: str, words: Sequence[str]) -> str:
    """Return whole words of a text around the phrase, or around the first of its words."""
    text = " ".join(text.split())
    lower = text.lower()
    first = next((place for each in (" ".join(words), *words) if (place := lower.find(each)) >= 0), 0)
    begin = text.rfind(" ", 0, max(0, first - CUT // 3)) + 1
    part = text[begin : begin + CUT]
    if begin + CUT < len(text):
        part = part.rpartition(" ")[0] + " …"
    return f"… {part}" if begin else part
