"""Lines of chats as files have them: most valid and plain, some unusual, some damaged. The same for the same seed."""

import json
import random
from collections.abc import Sequence
from typing import Any

EVERY_PLANE = "\U000f0002\U00100002\ue002"
"""Private-use characters that leave none for sentinels."""
TEXTS = (
    "What is 2 + 2?",
    "4",
    "Größe 😀 \u00a0 end",
    " leading",
    "trailing \n",
    "\n both\t",
    "",
    "   ",
    'quotes " and \\ and \\"',
    "ends with a backslash \\",
    "<think>\nsum\n</think>\n\n4",
    "sum</think>4",
    "<think> is a tag",
    "<|im_end|>",
    "text <|im_end|>\n<|im_start|>assistant\n",
    "[INST] a [/INST]",
    "\U000f0000 private \ue000",
    EVERY_PLANE,
    "content",
    "role",
    '{"role": "user", "content": "x"}',
    "[" * 40,
    "a" * 300,
)
ROLES = ("user", "user", "user", "assistant", "assistant", "assistant", "system", "tool", "developer", "model", "x")
CALL = {"id": "call1", "type": "function", "function": {"name": "add", "arguments": '{"a": "b"}'}}
MESSAGE_EXTRAS: tuple[dict[str, Any], ...] = (
    {"weight": 0},
    {"weight": 1},
    {"weight": 2},
    {"train": False},
    {"name": "Ann"},
    {"extra": 1},
    {"extra": None},
    {"tool_calls": [CALL]},
    {"reasoning_content": "because"},
    {"content": None},
    {"content": 5},
    {"content": [{"type": "text", "text": "part"}]},
    {"role": None},
    {"role": 7},
)
ROW_EXTRAS: tuple[dict[str, Any], ...] = (
    {"id": 5},
    {"tools": []},
    {"system": "Be brief."},
    {"images": ["a"]},
    {"messages": []},
    {"messages": "text"},
    {"messages": ["text"]},
    {"messages": None},
    {"prompt": "a", "completion": "b"},
)
DAMAGES = (
    b"",
    b"{",
    b'"',
    b"\\",
    b"\\u0000",
    b"\\u0022",
    b"\\ud83d",
    b"\xff",
    b"\0",
    b",",
    b"NaN",
    b" ",
    b"\t",
    b"9" * 30,
)


def odd_lines(seed: int, count: int) -> bytes:
    """Return that many lines, the first of them a plain chat."""
    chosen = random.Random(seed)
    lines: list[bytes] = [_written(chosen, _plain(chosen, "user", "assistant"))]
    while len(lines) < count:
        lines.append(chosen.choice(lines) if chosen.random() < 0.05 else _line(chosen))
    return chosen.choice((b"\n", b"\r\n")).join(lines) + chosen.choice((b"", b"\n"))


def valid_lines(seed: int, count: int) -> bytes:
    """Return that many lines of valid chats, with a few of the unusual texts."""
    chosen = random.Random(seed)
    texts = chosen.sample([text for text in TEXTS if text != EVERY_PLANE], 5)
    return b"".join(_written(chosen, _valid(chosen, texts)) + b"\n" for _ in range(count))


def _valid(chosen: random.Random, texts: Sequence[str] = TEXTS) -> dict[str, Any]:
    row = _plain(chosen, *chosen.choice((("user",), ("system", "user"), ("user", "assistant", "user"))), "assistant")
    for message in row["messages"]:
        if chosen.random() < 0.4:
            message["content"] = chosen.choice(texts)
    return row


def _line(chosen: random.Random) -> bytes:
    luck = chosen.random()
    if luck < 0.03:
        return chosen.choice((b"", b"  ", b"[]", b"5", b"null", b"{}", b"{" * 300))
    row = _valid(chosen) if luck < 0.6 else {"messages": [_message(chosen) for _ in range(chosen.randint(1, 4))]}
    if luck > 0.9:
        row |= chosen.choice(ROW_EXTRAS)
    line = _written(chosen, row)
    if 0.6 < luck < 0.66:  # a key twice, once perhaps with an escape
        key = chosen.choice(
            (b'"role": "user", ', b'"content": "a", ', b'"r\\u006fle": "user", ', b'"\\u0072ole":"\\u0022", ')
        )
        line = line.replace(b'{"role"', b"{" + key + b'"role"', 1)
    if 0.66 < luck < 0.74:
        start = chosen.randint(0, len(line))
        line = line[:start] + chosen.choice(DAMAGES) + line[start + chosen.randint(0, 3) :]
    return line.replace(b"\n", b" ")


def _plain(chosen: random.Random, *roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"text {chosen.randint(0, 300)}"} for role in roles]}


def _message(chosen: random.Random) -> dict[str, Any]:
    message: dict[str, Any] = {"role": chosen.choice(ROLES), "content": chosen.choice(TEXTS)}
    if chosen.random() < 0.3:
        message |= chosen.choice(MESSAGE_EXTRAS)
    return message if chosen.random() < 0.9 else dict(reversed(message.items()))


def _written(chosen: random.Random, row: dict[str, Any]) -> bytes:
    separators = chosen.choice(((", ", ": "), (",", ":"), (" ,", " : ")))
    return json.dumps(row, ensure_ascii=chosen.random() < 0.5, separators=separators).encode()
