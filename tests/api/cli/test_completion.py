"""`attune completion`: what a shell offers after a part of a command."""

import subprocess
import sysconfig

import pytest

from tests.api.cli.conftest import attune
from tests.source import ROOT


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("attune comp", ["completion"]), ("attune jobs ch", ["checkpoints"]), ("attune jobs create --met", ["--method"])],
)
def test_bash_completes_commands_and_options(typed: str, offered: list[str]) -> None:
    words = typed.split()
    script = f"""
        PATH={sysconfig.get_path("scripts")}:$PATH
        eval "$(attune completion bash)"
        COMP_WORDS=({typed}) COMP_CWORD={len(words) - 1}
        $(complete -p attune | grep -oE '_attune[a-z_]*') attune
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines(), done.stderr) == (offered, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    assert "_ATTUNE_COMPLETE" in attune("completion", shell).stdout


def test_an_unknown_login_shell_is_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/elsewhere")
    assert "bash|zsh|fish" in attune("completion").stderr
