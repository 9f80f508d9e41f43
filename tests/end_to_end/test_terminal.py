"""The commands that need a worker or a sampler, against a live server: on a terminal and without one."""

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from tests.api.cli.terminal import run_on_terminal
from tests.end_to_end.jobs import client_of, create, ended, rows, upload
from tests.services import AttuneUp


@pytest.fixture(scope="module")
def lines(live_server: AttuneUp, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Each command's line."""
    client = client_of(live_server)
    job_id = create(client, upload(client, rows(12)), steps=2)
    ended(client, job_id)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(rows(12))
    return {
        "jobs log": ["jobs", "log", job_id],
        "chat": ["chat", "tiny", "abcd", "--max-tokens", "5"],
        "estimate": ["estimate", str(path), "--model", "tiny"],
        "preview": ["preview", str(path), "--model", "tiny"],
    }


@pytest.mark.parametrize("name", ["jobs log", "chat", "estimate", "preview"])
def test_the_result_is_shown_everywhere(
    name: str, live_server: AttuneUp, lines: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_BASE_URL", live_server.base_url)
    monkeypatch.setenv("ATTUNE_API_KEY", live_server.api_key)
    result = CliRunner().invoke(app, lines[name])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert result.stdout.strip()
    code, shown = run_on_terminal(*lines[name])
    assert code == 0, shown
    assert shown.strip()
