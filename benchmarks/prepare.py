"""Speed of a scan and of the whole prepare stage: `python -m benchmarks.prepare [BASE_FOLDER] [--megabytes 18 …]`.

The file has conversations whose texts are paragraphs of Python's standard library. `--against FOLDER` runs another
checkout in turns with this one. For comparison, transformers renders and tokenizes the same rows one by one, as TRL's
trainers do by default; it computes no findings, no loss weights and no arrays.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests import smollm2

ROOT = Path(__file__).parents[1]
TRL_ROWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, nargs="?", help="default: SmolLM2-135M-Instruct, as in the tests")
    parser.add_argument("--megabytes", type=float, default=18)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    base = (options.base or smollm2.folder()).absolute()
    with tempfile.TemporaryDirectory() as folder:
        rows, first_row = Path(folder) / "rows.jsonl", Path(folder) / "first.jsonl"
        rows.write_bytes(chats(options.megabytes * 1e6))
        first_row.write_bytes(rows.read_bytes().partition(b"\n")[0])
        megabytes = rows.stat().st_size / 1e6
        print(f"{megabytes:.1f} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}; without the programs' start")
        for _ in range(options.rounds):
            for tree in filter(None, (options.against, ROOT)):
                for program in ("scan", "prepare"):
                    start, whole = (seconds(tree, program, file, base) for file in (first_row, rows))
                    wall_s, cpu_s = (after - before for before, after in zip(start, whole, strict=True))
                    show(f"{tree.absolute().name} {program}", megabytes, wall_s, cpu_s)
        show("transformers", *one_by_one(rows, base))


def show(name: str, megabytes: float, wall_s: float, cpu_s: float) -> None:
    print(f"{name:24} {wall_s:6.1f} s {cpu_s:6.1f} s of CPU {megabytes / cpu_s:7.1f} MB per s of CPU", flush=True)


def seconds(tree: Path, program: str, rows: Path, base: Path) -> tuple[float, float]:
    """Return the wall time of a program on a file of rows, and the processor time of all its threads."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / "base").symlink_to(base)
        (run / "input").symlink_to(rows)
        file = {"name": "train", "path": "input", "file_id": "file-1", "param": "training_file", "min_rows": 1}
        limits = {"memory_bytes": 4 << 30}
        request: dict[str, Any] = {"job_id": "ftjob-1", "method": {"type": "supervised"}, "files": [file]}
        (run / "prepare.json").write_text(json.dumps(request | {"limits": limits}))
        (run / "scan.json").write_text(json.dumps(limits))
        environment = {**os.environ, "PYTHONPATH": str(tree.absolute()), "TOKENIZERS_PARALLELISM": "false"}
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", f"worker.{program}", folder]
        subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def one_by_one(path: Path, base: Path) -> tuple[float, float, float]:
    """Return (megabytes, wall time, processor time) of transformers on the first rows."""
    tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
    lines = path.read_bytes().splitlines()[:TRL_ROWS]
    started, cpu_started = time.perf_counter(), time.process_time()
    for line in lines:
        tokenizer.apply_chat_template(json.loads(line)["messages"], return_dict=True)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    return sum(map(len, lines)) / 1e6, wall_s, cpu_s


def chats(size: float) -> bytes:
    """Return JSON lines of at least so many bytes, the same on each call."""
    chosen, lines, total = random.Random(0), [], 0
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    paragraphs = [text for path in sources for text in re.split(r"\n\s*\n", path.read_text(errors="replace"))]
    paragraphs = [text.strip() for text in paragraphs if 60 < len(text) < 1500]
    while total < size:
        messages = [{"role": "system", "content": "Be brief."}] * chosen.randint(0, 1)
        for _ in range(chosen.choice((1, 1, 1, 2, 3))):
            answer = "\n\n".join(chosen.choices(paragraphs, k=chosen.randint(1, 4)))
            messages.append({"role": "user", "content": chosen.choice(paragraphs)[:300]})
            messages.append({"role": "assistant", "content": answer})
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n")
        total += len(lines[-1])
    return b"".join(lines)


if __name__ == "__main__":
    main()
