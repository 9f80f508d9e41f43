"""Signatures of published manifests, and the keys that verify them."""

from pathlib import Path

import pytest

from api.cli.verify.signature import check_signature, read_keys
from api.context import Context
from api.infra import signatures
from api.records import signing_keys
from api.services import signing
from api.spec.manifest import NAME, SIGNATURE

CONTENT = b'{"job": "ftjob-1"}'


def signed(context: Context, folder: Path) -> Path:
    (folder / NAME).write_bytes(CONTENT)
    key = signing.current(context)
    assert key.private_key is not None
    (folder / SIGNATURE).write_bytes(signatures.sign(CONTENT, key.id, key.private_key))
    return folder


def saved_keys(context: Context, path: Path) -> str:
    path.write_text(signing.public_keys(context).model_dump_json())
    return str(path)


def status_and_problems(context: Context, folder: Path) -> tuple[str | None, list[str]]:
    keys = read_keys(saved_keys(context, folder / "keys.json"))
    signature, problems, _ = check_signature(folder, keys, "keys.json")
    return None if signature is None else signature.status, problems


def test_signature_of_a_manifest_is_valid_until_a_byte_is_changed(context: Context, tmp_path: Path) -> None:
    folder = signed(context, tmp_path)
    assert status_and_problems(context, folder) == ("valid", [])
    (folder / NAME).write_bytes(CONTENT + b" ")
    status, (problem,) = status_and_problems(context, folder)
    assert status == "invalid"
    assert "the manifest or its signature was changed" in problem


def test_signature_of_a_retired_key_remains_valid(context: Context, tmp_path: Path) -> None:
    folder = signed(context, tmp_path)
    first = signing.current(context)
    second = signing.rotate(context)
    assert status_and_problems(context, folder) == ("valid", [])
    with context.database.read() as session:
        assert [(key.id, key.private_key is None) for key in signing_keys.listed(session)] == [
            (second.id, False),
            (first.id, True),
        ]


def test_two_processes_create_one_key(context: Context) -> None:
    ids = set()
    for _ in range(2):
        with context.database.write() as session:
            ids.add(signing_keys.add(session, 1, signatures.new_key_pair()).id)
    assert ids == {signing.current(context).id}


def test_keys_of_another_installation_are_no_proof(context: Context, tmp_path: Path) -> None:
    folder = signed(context, tmp_path)
    keys = read_keys(saved_keys(context, tmp_path / "keys.json"))
    other = keys.model_copy(update={"keys": []})
    _, problems, _ = check_signature(folder, other, "https://example.com")
    assert problems == [
        f"manifest.json is signed by key {keys.keys[0].kid}, which https://example.com does not list",
    ]


@pytest.mark.parametrize("require", [False, True])
def test_missing_signature_is_a_problem_only_where_keys_are_given(
    context: Context, tmp_path: Path, require: bool
) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    keys = signing.public_keys(context) if require else None
    signature, problems, notes = check_signature(tmp_path, keys, "keys.json")
    assert signature is None
    assert (len(problems), len(notes)) == ((1, 0) if require else (0, 1))
    assert "has no signature" in [*problems, *notes][0]
