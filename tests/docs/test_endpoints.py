"""The reference of the HTTP API, which is generated for the site."""

import re

import pytest

from api.dashboard.reference import METHODS, pages
from api.spec.fields import JsonObject
from docs.site import openapi


@pytest.fixture(scope="module")
def document() -> JsonObject:
    return openapi()


def test_every_operation_has_a_section(document: JsonObject) -> None:
    sections = set(re.findall(r"^### (\w+ \S+)$", pages(document)["endpoints.md"], re.MULTILINE))
    paths = document["paths"].items()
    assert sections == {f"{method.upper()} {path}" for path, item in paths for method in METHODS if method in item}
    assert not {method for _, item in paths for method in item} - {*METHODS, "parameters"}


def test_every_link_to_an_object_has_its_section(document: JsonObject) -> None:
    texts = pages(document)
    sections = {name.lower() for name in re.findall(r"^## ([\w-]+)$", texts["objects.md"], re.MULTILINE)}
    assert set(re.findall(r"objects\.md#([\w-]+)", "".join(texts.values()))) <= sections


def test_a_field_has_its_type_limits_and_default(document: JsonObject) -> None:
    lora = pages(document)["objects.md"].partition("\n## Lora\n")[2].partition("\n## ")[0]
    rank = next(line for line in lora.splitlines() if line.startswith("| `rank` |"))
    assert "integer" in rank
    assert "≤ `1024`" in rank
    assert "default `16`" in rank
