"""`attune import record`, from a stand-in of OpenAI."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.cli.errors import CommandError, ExitCode
from api.cli.imports import asking
from api.cli.imports.asking import Limits
from api.cli.imports.consent import require_consent
from api.cli.imports.prompts import CHAT, COMPLETION, prompt_of, read_prompts
from tests.api.cli import stand_in
from tests.api.cli.conftest import attune
from tests.api.cli.recorded_waits import RecordedWaits
from tests.api.cli.stand_in import KEY, MODELS, StandIn, lines, refusal, row, run_to_its_death, standing_in


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with standing_in() as state:
        yield state


@pytest.fixture
def folder(source: StandIn, tmp_path: Path) -> Path:
    attune("import", "fetch", "--from", source.base_url, "--output", tmp_path)
    source.handed_out.clear()
    return tmp_path


def recorded(source: StandIn, folder: Path, *words: object) -> list[dict[str, Any]]:
    line = ("import", "record", "--from", source.base_url, "--input", folder, "--yes", "--json", *words)
    result = attune(*line)
    assert result.exit_code == 0, result.output
    models: list[dict[str, Any]] = json.loads(result.stdout)["models"]
    return models


def answers(folder: Path, number: int = 0) -> list[dict[str, Any]]:
    lines = (folder / "answers" / f"ftjob-{number}.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda answer: answer["reference"] or "")  # they arrive in any order


def test_answers_are_kept_with_their_log_probabilities(source: StandIn, folder: Path) -> None:
    source.limit_every = 3
    found = {each["job"]: each for each in recorded(source, folder)}
    assert (found["ftjob-0"]["answers"], found["ftjob-0"]["open"]) == (4, 0)
    assert found["ftjob-1"]["deleted"]
    assert "ftjob-2" not in found  # it has no validation file
    kept = answers(folder)
    assert [each["reference"] for each in kept] == ["200", "202", "204", "206"]
    choice = kept[0]["response"]["choices"][0]
    assert choice["message"]["content"] == "1111 answers What is 100 + 100?"
    assert choice["logprobs"]["content"][0]["logprob"] == -0.5


def test_a_model_without_log_probabilities_is_asked_for_its_answers_only(source: StandIn, folder: Path) -> None:
    source.without_logprobs = True
    recorded(source, folder, "--job", "ftjob-0")
    assert [each["response"]["choices"][0]["logprobs"] for each in answers(folder)] == [None] * 4
    assert source.refused_logprobs == 1


def test_without_a_terminal_nothing_is_asked_and_nothing_is_sent(source: StandIn, folder: Path) -> None:
    result = attune("import", "record", "--from", source.base_url, "--input", folder)
    assert result.exit_code == ExitCode.REFUSED
    assert "At most 8 requests" in result.stderr
    assert "--yes" in result.stderr
    assert not source.handed_out


@pytest.mark.parametrize(("typed", "agreed"), [(b"y\n", True), (b"n\n", False), (b"\n", False)])
def test_a_terminal_asks_for_consent(typed: bytes, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard, terminal = os.openpty()
    os.write(keyboard, typed)
    with open(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        if agreed:
            require_consent("Ask them?", yes=False)
        else:
            with pytest.raises(CommandError, match="nothing was done"):
                require_consent("Ask them?", yes=False)
    os.close(keyboard)


def test_a_ceiling_stops_it_and_the_rest_is_asked_later(source: StandIn, folder: Path) -> None:
    chosen = ("--job", "ftjob-0")
    assert recorded(source, folder, *chosen, "--max-requests", 3)[0]["open"] == 1
    assert recorded(source, folder, *chosen, "--max-tokens", 100)[0]["open"] == 1  # one answer may take more
    assert recorded(source, folder, *chosen)[0]["open"] == 0
    assert not source.repeats()


def test_each_tenth_of_the_answers_is_reported(source: StandIn, folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(lines(*(row(number) for number in range(20))))
    words = ("--input", folder, "--prompts", prompts, "--job", "ftjob-0", "--yes")
    notes = attune("import", "record", "--from", source.base_url, *words).stderr.splitlines()
    assert [note for note in notes if " of " in note] == [f"{MODELS[0]}: {done} of 20" for done in range(2, 21, 2)]


def test_refused_questions_count(source: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "answer", lambda body: (400, refusal("It is too long.")))
    assert recorded(source, folder, "--job", "ftjob-0", "--max-requests", 3)[0]["open"] == 1


def test_several_questions_are_asked_at_once_after_the_first(
    source: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, answer, asked = threading.Barrier(3), source.answer, itertools.count()

    def answer_together(body: dict[str, Any]) -> tuple[int, Any]:
        if next(asked):
            together.wait(timeout=20)
        return answer(body)

    monkeypatch.setattr(source, "answer", answer_together)
    assert recorded(source, folder, "--job", "ftjob-0", "--concurrency", 3)[0]["open"] == 0
    assert not source.repeats()


def test_a_source_that_fails_ends_the_command_but_no_answer_on_its_way_is_lost(
    source: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, asked = source.answer, itertools.count()

    def refuse_the_second(body: dict[str, Any]) -> tuple[int, Any]:
        if next(asked) == 1:
            return 403, refusal("Your project has no access.")
        return answer(body)

    monkeypatch.setattr(source, "answer", refuse_the_second)
    line = ("import", "record", "--from", source.base_url, "--input", folder, "--yes", "--job", "ftjob-0")
    assert attune(*line).exit_code == ExitCode.NOT_AUTHORIZED
    assert len(answers(folder)) == 3


@dataclass
class InTurn:
    """Answers a question by each of these calls, in the order in which the questions arrive."""

    answers: Sequence[Callable[[dict[str, Any]], tuple[int, Any]]]
    all_asked: threading.Event = field(default_factory=threading.Event)
    _count: Iterator[int] = field(default_factory=itertools.count)

    def __call__(self, body: dict[str, Any]) -> tuple[int, Any]:
        number = next(self._count)
        if number == len(self.answers) - 1:
            self.all_asked.set()
        return self.answers[number](body)


def too_many(_: dict[str, Any]) -> tuple[int, Any]:
    return 429, refusal("Rate limit reached", code="rate_limit_exceeded")


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (429, "insufficient_quota")])
def test_a_final_error_is_shown_at_once(
    source: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    notes: list[str] = []
    shown, answer = threading.Event(), source.answer

    def refuse(_: dict[str, Any]) -> tuple[int, Any]:
        assert in_turn.all_asked.wait(20)
        return status, refusal("No more", code=code)

    def answer_late(body: dict[str, Any]) -> tuple[int, Any]:
        assert shown.wait(20)
        return answer(body)

    def note(text: str) -> None:
        notes.append(text)
        shown.set()

    in_turn = InTurn([answer, refuse, answer_late, too_many])
    source.retry_after = "60"
    monkeypatch.setattr(source, "answer", in_turn)
    monkeypatch.setattr(asking, "print_note", note)
    start = time.monotonic()
    result = attune("import", "record", "--from", source.base_url, "--input", folder, "--yes", "--job", "ftjob-0")
    assert time.monotonic() - start < 20  # one thread was waiting for a minute
    assert result.exit_code in {ExitCode.NOT_AUTHORIZED, ExitCode.UNAVAILABLE}
    assert "Ctrl-C" in notes[0]
    assert len(answers(folder)) == 2


def test_ctrl_c_ends_the_command_though_threads_wait(
    source: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, answer = threading.Event(), source.answer

    def too_many_after_all(body: dict[str, Any]) -> tuple[int, Any]:
        assert in_turn.all_asked.wait(60)  # else the last question might not be sent for a minute
        return too_many(body)

    in_turn = InTurn([answer, lambda _: (503, ended.wait(60)), too_many_after_all, too_many])
    source.retry_after = "60"
    monkeypatch.setattr(source, "answer", in_turn)
    words = ("--from", source.base_url, "--input", folder, "--yes", "--job", "ftjob-0")
    command = [sys.executable, "-m", "api.cli", "import", "record", *map(str, words)]
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeded) as child:  # noqa: PLW1509
        assert in_turn.all_asked.wait(60)
        child.send_signal(signal.SIGINT)
        _, shown = child.communicate(timeout=20)
        ended.set()
    assert child.returncode == ExitCode.INTERRUPTED
    assert "Interrupted. Repeated, the command" in shown
    assert len(answers(folder)) == 1


def test_a_missing_model_is_asked_for_again_by_the_next_command(
    source: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recorded(source, folder, "--job", "ftjob-1")[0]["deleted"]
    monkeypatch.setattr(stand_in, "DELETED", None)  # such as with the key of another project
    found = recorded(source, folder, "--job", "ftjob-1")[0]
    assert (found["answers"], found["deleted"]) == (4, False)


@pytest.mark.parametrize("when", ["before", "amid"])
def test_killed_at_random_moments_no_prompt_is_asked_twice(source: StandIn, folder: Path, when: str) -> None:
    # Of several questions at once, a killed command asks again those whose answers were on their way.
    words = ("import", "record", "--from", source.base_url, "--input", folder, "--yes", "--concurrency", "1")
    source.kill_when, kills, moments = when, 0, random.Random(when)
    for _ in range(4):
        source.victim, source.kill_at = 0, source.requests + moments.randint(1, 3)
        kills += run_to_its_death(source, *words)
    source.kill_at = None
    assert [each["open"] for each in recorded(source, folder)] == [0, 0]
    assert kills >= 2
    assert not source.repeats()
    assert [each["reference"] for each in answers(folder)] == ["200", "202", "204", "206"]


def test_a_file_of_prompts_takes_the_place_of_the_validation_files(source: StandIn, folder: Path) -> None:
    path = folder / "prompts.jsonl"
    path.write_text('{"prompt": "Hello?"}\n\n{"prompt": "Hello?"}\n')
    found = recorded(source, folder, "--prompts", path, "--job", "ftjob-2")
    assert found[0]["model"] == MODELS[2]
    assert [each["request"]["messages"][0]["content"] for each in answers(folder, 2)] == ["Hello?"]


def test_the_key_is_not_sent_to_a_server_that_only_the_folder_names(source: StandIn, folder: Path) -> None:
    before = source.requests
    result = attune("import", "record", "--input", folder, "--yes")
    assert result.exit_code == ExitCode.REFUSED
    assert f"--from {source.base_url}" in result.stderr
    assert source.requests == before


def test_the_prompt_of_a_row_is_the_row_without_its_answer() -> None:
    chat = prompt_of(row(1) | {"tools": [{"type": "function"}]})
    assert (chat.path, chat.reference) == (CHAT, "2")
    assert chat.request["messages"] == [{"role": "user", "content": "What is 1 + 1?"}]
    assert "tools" in chat.request
    weighted = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    longer = prompt_of({"messages": [*weighted, *weighted]})
    assert longer.request["messages"][1] == {"role": "assistant", "content": "b"}
    pair = {"input": {"messages": weighted[:1]}, "preferred_output": [{"role": "assistant", "content": "good"}]}
    assert prompt_of(pair).reference == "good"
    assert prompt_of({"messages": weighted[:1], "answer": 3}).item["answer"] == 3
    call = {"role": "assistant", "tool_calls": [{"id": "call_1", "function": {"name": "add", "arguments": "{}"}}]}
    assert prompt_of({"messages": [*weighted[:1], call]}).reference == '[{"name": "add", "arguments": "{}"}]'
    assert prompt_of({"prompt": "a", "completion": "b"}).path == COMPLETION


def test_a_row_without_a_prompt_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(CommandError, match="line 2"):
        read_prompts(path)


def test_requests_keep_their_distance() -> None:
    waits, limits = RecordedWaits(), Limits(requests=3, tokens=1, interval_s=60)
    limits.wait_turn(waits)
    limits.wait_turn(waits)
    assert waits.recorded == [60]
