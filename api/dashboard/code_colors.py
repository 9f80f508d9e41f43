"""Code blocks of the documentation, with the classes that document.css colors."""

from html import escape
from itertools import groupby

from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, String
from pygments.util import ClassNotFound

KINDS = {Comment: "comment", Keyword: "keyword", String: "string"}
"""The classes of tokens. Other tokens have the color of text."""


def colored(code: str, language: str, _attributes: str = "") -> str:
    """Return code as HTML; "", for which markdown-it shows plain text, if no such language is known."""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    tokens = ((_kind(token), text) for token, text in lexer.get_tokens(code))
    runs = ((kind, escape("".join(text for _, text in run))) for kind, run in groupby(tokens, key=lambda each: each[0]))
    return "".join(f'<span class="{kind}">{text}</span>' if kind else text for kind, text in runs)


def _kind(token: object) -> str:
    return next((name for kind, name in KINDS.items() if token in kind), "")
