"""What `run_child` forks: a program, and a note of its peak memory.

It imports next to nothing: the fork server has the program's libraries, and a forked child imports all others anew.
"""

import resource
from importlib import import_module
from pathlib import Path

PEAK_FILE = "peak_bytes"


def main(program: str, folder: str) -> int:
    """Run the program in this process, and write down its peak of memory."""
    code: int = import_module(program).main(folder)
    peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    (Path(folder) / PEAK_FILE).write_text(str(max(peaks)))
    return code
