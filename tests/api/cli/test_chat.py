import json

from tests.api.cli.conftest import MODEL, FakeServer, attune


def test_an_answer_is_printed_as_it_comes(server: FakeServer) -> None:
    server.said = ["two\nli", "nes\u2028"]
    shown = attune("chat", MODEL, "hello", "--system", "be brief", "--max-tokens", 5, "--temperature", 0)
    assert (shown.exit_code, shown.stdout) == (0, "two\nlines \n")
    assert "cut" in shown.stderr
    assert server.asked == {
        "model": MODEL,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        "max_completion_tokens": 5,
        "temperature": 0.0,
        "stream": True,
    }


def test_what_a_model_says_does_not_steer_the_terminal(server: FakeServer) -> None:
    server.said = ["a\x1b", "[2Jb\r\tc"]
    assert attune("chat", MODEL, "hello").stdout == "a [2Jb \tc\n"


def test_json_is_the_whole_answer(server: FakeServer) -> None:
    assert json.loads(attune("chat", MODEL, "hello", "--json").stdout) == {"id": "chatcmpl-1"}


def test_a_server_that_is_busy_is_exit_code_4(server: FakeServer) -> None:
    server.outages = 1
    assert attune("chat", MODEL, "hello").exit_code == 4
