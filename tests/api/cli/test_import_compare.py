"""The comparison of old and new answers, as a table and as a page."""

import json
import re
import threading
from html.parser import HTMLParser

import httpx
import pytest

from api.cli.errors import CommandError
from api.cli.imports.compare import _Grading
from api.cli.imports.comparison_table import print_comparison
from api.cli.imports.page import comparison_page
from api.cli.imports.prompts import CHAT, Prompt
from api.cli.imports.source import Source

COMPARISON = {
    "old_job": "ftjob-0",
    "old_model": "ft:old",
    "new_job": "ftjob-9",
    "new_model": "ft:new",
    "prompts": 2,
    "equal": 1,
    "rewards": {"similar": {"old": 0.5, "new": None}},
    "rows": [
        {
            "prompt": {"messages": [{"role": "user", "content": "Which tag?"}]},
            "reference": "<b>",
            "old": "<script src=https://example.com></script>",
            "new": None,
            "new_error": "no \x1b[2Jtools here",
            "rewards": {"similar": {"old": 1.0, "new": None}},
        },
        {
            "prompt": {"prompt": "again"},
            "reference": None,
            "old": "same",
            "new": "same",
            "new_error": None,
            "rewards": {"similar": {"old": 0.0, "new": None}},
        },
    ],
}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_requests_nothing_and_runs_nothing_that_a_model_wrote() -> None:
    page = comparison_page([COMPARISON])
    seen = Tags()
    seen.feed(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(seen.tags)
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=[\"']", page)
    assert "<script src=https://example.com>" in seen.text
    assert "1 → -" in seen.text
    assert "tools here" in seen.text
    assert seen.tags.count("tr") == 3


def test_the_page_has_a_dash_for_a_missing_answer() -> None:
    row = {"prompt": {"prompt": "a"}, "reference": None, "old": None, "new": None, "new_error": None, "rewards": {}}
    assert "None" not in comparison_page([COMPARISON | {"rows": [row]}])


def test_the_table_has_a_line_for_each_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison([COMPARISON], ["similar"])
    shown = capsys.readouterr()
    lines = [line.split("\t") for line in shown.out.splitlines()]
    assert lines[0] == ["JOB", "PROMPT", "REFERENCE", "OLD", "NEW", "similar"]
    assert lines[2] == ["ftjob-0", "again", "-", "same", "same", "0 → -"]
    assert "ft:new did not answer 1 prompts: no tools here" in shown.err
    assert "\x1b" not in shown.out + shown.err


def test_a_refused_grader_ends_the_command_though_a_grading_runs() -> None:
    running, ended = threading.Event(), threading.Event()

    def grade(request: httpx.Request) -> httpx.Response:
        if json.loads(request.content)["model_sample"] == "slow":
            running.set()
            ended.wait(60)
        running.wait(20)
        return httpx.Response(400, json={"error": {"message": "has no field a"}})

    server = Source("http://127.0.0.1/v1", "sk-test")
    server._http = httpx.Client(transport=httpx.MockTransport(grade), base_url="http://a")
    cases = [(Prompt(CHAT, {}, None, {}), {"old": "slow", "new": "quick"})]
    with pytest.raises(CommandError, match="grader similar: has no field a"):
        _Grading(server, {"similar": {"name": "similar"}}, concurrency=2).rewards(cases)
    assert not ended.is_set()
    ended.set()
