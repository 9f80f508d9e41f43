"""Plain chats: rows of messages that have a role and a text, and nothing else. Most rows of most files are plain.

The types of plain chats are checked while they are decoded, many times faster than by a format. No row is refused here:
the ordinary decoder and the formats decide about all other rows.
"""

from typing import Literal

import msgspec

from api.spec.formats import Messages, Row

MAX_MESSAGES = 100
"""Maximum number of messages of a plain chat. Longer chats are read like other rows."""


class PlainMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content: str
    role: Literal["system", "user", "assistant"]


class _Chat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[PlainMessage]


class PlainChat(msgspec.Struct, gc=False):
    line: bytes
    """The row's JSON in the file."""
    canonical: bytes
    """The row's JSON without spaces and with sorted keys."""
    roles: tuple[str, ...]
    contents: list[PlainMessage]
    """The messages. No content is blank."""

    def row(self) -> Row:
        """Decode the row, as the readers of other rows do."""
        row: Row = msgspec.json.decode(self.line)
        return row

    def messages(self) -> Messages:
        """Return the messages for a chat template."""
        return [{"role": message.role, "content": message.content} for message in self.contents]


_decoder = msgspec.json.Decoder(_Chat)
_encoder = msgspec.json.Encoder()  # writes sorted keys: the fields above are sorted


def find_plain_chat(line: bytes) -> PlainChat | None:
    """Return the plain chat in a line, or None if the line is, or may be, anything else."""
    try:
        chat = _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    messages = chat.messages
    roles = tuple([message.role for message in messages if not message.content.isspace() and message.content])
    if len(roles) != len(messages) or not 0 < len(roles) <= MAX_MESSAGES:
        return None
    canonical = _encoder.encode(chat)
    # If a key is repeated, the decoder keeps only the last one, so the numbers of quotes differ.
    if line.count(b'"') != canonical.count(b'"'):
        return None
    if b"\\u00" in line and (b"\\u0000" in line or b"\\u0022" in line):  # NUL, or a quote that the count misses
        return None
    return PlainChat(line, canonical, roles, messages)
