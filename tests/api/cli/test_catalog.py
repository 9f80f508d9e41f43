import json

from tests.api.cli.conftest import CATALOG, FakeServer, attune


def test_what_can_be_asked_for_is_a_table_and_what_cannot_is_said_once(server: FakeServer) -> None:
    shown = attune("catalog")
    assert [line.split("\t")[:2] for line in shown.stdout.splitlines()] == [
        ["WHAT", "NAME"],
        ["technique", "lora"],
        ["method", "dpo"],
        ["base model", "tiny"],
    ]
    assert shown.stderr.splitlines() == ["not so"]


def test_json_is_the_whole_catalogue(server: FakeServer) -> None:
    assert json.loads(attune("catalog", "--json").stdout) == CATALOG
