"""How much of `import api.main` is ours: the whole import against the imports of others that it leads to, alone.

Both are measured in fresh processes, in turns, so that a busy machine slows them alike. Ends 1 above the limit.
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


def others() -> str:
    """One statement that imports what others wrote, in the order in which `import api.main` comes to it."""
    names = [name for name in run(LISTED).split() if name.partition(".")[0] not in {"api", "worker", "migrations"}]
    # A loop and not `import a, b`: some packages put names into sys.modules that are no modules to import.
    tried = "with contextlib.suppress(ImportError): importlib.import_module(name)"
    return f"import importlib, contextlib\nfor name in {names}:\n {tried}\n0"


def main() -> int:
    programs = {"import api.main": TIMED.format(imports=OURS), "others alone": TIMED.format(imports=others())}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            times[name].append(float(run(program)))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:16} {median * 1000:7.0f} ms   (median of {ROUNDS}; {min(times[name]) * 1000:.0f} at best)")
    ratio = medians["import api.main"] / medians["others alone"]
    print(f"ratio            {ratio:7.2f}      (limit {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
