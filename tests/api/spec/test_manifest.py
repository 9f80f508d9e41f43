import pytest
from pydantic import ValidationError

from api.spec.manifest import FileEntry


@pytest.mark.parametrize("name", ["/etc/x.safetensors", "../x.safetensors", "a/../../x.safetensors"])
def test_a_manifest_lists_nothing_outside_of_its_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="is outside the folder"):
        FileEntry(name=name, bytes=1, sha256="0" * 64)
    assert FileEntry(name="states/..x", bytes=1, sha256="0" * 64).name == "states/..x"
