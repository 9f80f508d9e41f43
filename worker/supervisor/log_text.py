"""The end of a child's log as its user may read it: with nothing of this machine in it.

A child is given no secret (worker/supervisor/child.py), so its log can hold none; what it knows is where things lie.
"""

import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from api.settings import Settings

_CODE = Path(__file__).resolve().parents[2]
_BEGINS = r"(?:(?<=file://)|(?<![\w./~-]))"
_PATH = re.compile(_BEGINS + r"(?:/[\w.@+~-]+)+/([\w.@+~-]+)")
"""An absolute path of two parts or more; not the path of an address, nor a relative one."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def read_tail(path: Path, limit: int) -> str:
    """The end of a file, from the beginning of a line on, and a note of what is left out before it. A bar that was
    drawn over is a line for each time; other control characters are left out."""
    with path.open("rb") as file:
        left_out = max(0, file.seek(0, os.SEEK_END) - limit)
        file.seek(left_out)
        content = file.read(limit)
    note = ""
    if left_out:
        after_line = content.find(b"\n") + 1  # 0: one line that is longer than all that is kept
        note, content = f"[{left_out + after_line} bytes before this are not kept]\n", content[after_line:]
    lines = content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return note + _CONTROL.sub("", lines)


def without_paths(text: str, roots: Iterable[Path]) -> str:
    """The text with paths below these folders as relative ones, and of any other absolute path its name alone."""
    known = {str(form) for root in roots for form in (root.absolute(), root.resolve()) if len(form.parts) > 1}
    for root in sorted(known, key=len, reverse=True):
        below = re.compile(f"{_BEGINS}{re.escape(root)}(?:(/)|(?![\\w.-]))")
        text = below.sub(lambda found: "" if found[1] else ".", text)
    return _PATH.sub(r"…/\1", text)


def known_folders(settings: Settings) -> list[Path]:
    """What a log may be told relative to: our code, libraries, and the operator's folders."""
    paths = sysconfig.get_paths()
    return [
        *(Path(paths[name]) for name in ("purelib", "platlib", "stdlib", "platstdlib")),
        *(Path(prefix) for prefix in (sys.prefix, sys.base_prefix)),
        *(_CODE, settings.work, settings.data_dir, Path.home()),
    ]
