"""Settings that are more than a value: the servers of judges and of vLLM."""

import pytest
from pydantic import SecretStr, ValidationError

from api.settings import Judge, Settings

LOCAL = {"url": "http://10.0.0.5:8000/v1/", "models": "strict=qwen3-32b, plain", "api_key": "sk-local"}
FIRST = {"judge_url": "https://api.openai.com/v1", "judge_models": "gpt-5-mini"}


def test_child_processes_have_the_same_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate(FIRST | {"judge_servers": {"local": LOCAL}})
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    key = SecretStr("sk-local")
    assert Settings().judges == settings.judges
    assert settings.judges == {
        "gpt-5-mini": Judge("https://api.openai.com/v1", SecretStr(""), "gpt-5-mini"),
        "strict": Judge("http://10.0.0.5:8000/v1", key, "qwen3-32b"),
        "plain": Judge("http://10.0.0.5:8000/v1", key, "plain"),
    }
    assert "sk-local" not in repr(settings)


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        ({"local": LOCAL | {"models": "gpt-5-mini"}}, "several judges have the name 'gpt-5-mini'"),
        ({"local": LOCAL | {"url": "http://user@host"}}, "give a URL"),
        ({"local": LOCAL | {"url": ""}}, "at least 1 item"),
        ({"local": LOCAL | {"models": "ft:x"}}, "is not NAME or NAME=MODEL"),
        ({"local": LOCAL | {"key": "x"}}, "Extra inputs"),
    ],
)
def test_servers_of_judges_are_checked(servers: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings.model_validate(FIRST | {"judge_servers": servers})


def test_a_vllm_server_needs_models_and_models_a_server() -> None:
    given = {"sample_vllm_url": "http://127.0.0.1:8001/v1/", "sample_vllm_models": "a=b, c"}
    assert Settings.model_validate(given).vllm_models == {"a": "b", "c": "c"}
    for one, value in given.items():
        with pytest.raises(ValidationError, match="give both or none"):
            Settings.model_validate({one: value})


def test_a_log_level_is_one_of_four_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_LOG_LEVEL", "WARNING")
    assert Settings().log_level == "warning"
    monkeypatch.setenv("ATTUNE_LOG_LEVEL", "verbose")
    with pytest.raises(ValidationError, match="log_level"):
        Settings()


@pytest.mark.parametrize("given", [{"lease_s": 10}, {"heartbeat_s": 31}, {"sweep_s": 120}])
def test_intervals_with_which_healthy_workers_would_count_as_lost_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"heartbeat_s|sweep_s"):
        Settings.model_validate(given)
