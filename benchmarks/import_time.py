"""The time of `import api.main` compared with that of its third-party imports alone.

Both are measured in alternating fresh processes, so that other load slows both. The exit code is 1 above the limit.
"""

import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUNDS = 9
LIMIT = 1.3

TIMED = "import time; start = time.perf_counter(); {imports}; print(time.perf_counter() - start)"
OURS = "import api.main"
LISTED = f"import sys; before = set(sys.modules); {OURS}; print(*(name for name in sys.modules if name not in before))"


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def third_party_imports() -> str:
    """Return statements that import the third-party modules in the order in which `import api.main` does."""
    names = [name for name in run(LISTED).split() if name.partition(".")[0] not in {"api", "worker", "migrations"}]
    # A loop instead of `import a, b`: some packages add names to sys.modules that cannot be imported.
    try_import = "with contextlib.suppress(ImportError): importlib.import_module(name)"
    return f"import importlib, contextlib\nfor name in {names}:\n {try_import}\n0"


def main() -> int:
    programs = {
        "import api.main": TIMED.format(imports=OURS),
        "third-party alone": TIMED.format(imports=third_party_imports()),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            times[name].append(float(run(program)))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:17} {median * 1000:7.0f} ms   (median of {ROUNDS}; minimum {min(times[name]) * 1000:.0f})")
    ratio = medians["import api.main"] / medians["third-party alone"]
    print(f"ratio             {ratio:7.2f}      (limit {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
