from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.infra.private_file import write_private_file


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "credentials.json"
    contents = [bytes([number]) * 100_000 for number in range(16)]

    def write(content: bytes) -> None:
        write_private_file(path, content)
        assert path.read_bytes() in contents

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write_private_file(path, b"content")
    assert list(tmp_path.iterdir()) == [path]
