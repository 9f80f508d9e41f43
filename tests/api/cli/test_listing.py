import pytest

from api.cli.listing import print_documents, size_of, time_of


def test_a_cell_shows_a_field_or_what_a_function_returns_and_a_dash_without_a_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    documents = [{"id": "a", "count": 0, "bytes": 1500, "name": None, "ended_at": None, "tags": []}]
    print_documents(
        documents,
        {
            "ID": "id",
            "COUNT": "count",
            "SIZE": size_of("bytes"),
            "NAME": "name",
            "ENDED": time_of("ended_at"),
            "TAGS": lambda document: ", ".join(document["tags"]),
        },
    )
    header, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert header == ["ID", "COUNT", "SIZE", "NAME", "ENDED", "TAGS"]
    assert row == ["a", "0", "1.5 KB", "-", "-", "-"]
