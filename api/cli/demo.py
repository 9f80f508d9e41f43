"""`attune demo`: the demonstration in examples/demo.py, which is installed with the package."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from api.cli.errors import Command, CommandError, ExitCode

demo_app = typer.Typer(add_completion=False)

SCRIPT = Path(__file__).parents[2] / "examples" / "demo.py"
LIBRARIES = ("openai", "torch", "transformers", "peft", "gguf")


@demo_app.command(cls=Command, epilog="Example: attune demo --keep")
def demo(
    *,
    seed: Annotated[int, typer.Option(help="Seed of the rows, their order and the adapter.")] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the service running, with its page and the job, until Ctrl-C.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for all data of the demo. Default: ~/.cache/attune/demo.")
    ] = None,
) -> None:
    """Fine-tune a small language model from start to finish.

    It starts a service of its own, downloads the base model (90 MB), trains it for some minutes through OpenAI's
    client, and compares the answers before and after. It needs no GPU.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise CommandError(
            ExitCode.REFUSED,
            f"the demo needs {', '.join(missing)}: pip install '.[all]' in the folder of Attune's source.",
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = data_dir or cache / "attune" / "demo"
    arguments = [str(SCRIPT), "--seed", str(seed), "--data-dir", str(folder), *(["--keep"] if keep else [])]
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 (replaces this process, which does nothing more)
