import asyncio
from collections.abc import AsyncIterator

import pytest

from api.infra.artifacts import part_of


async def chunks() -> AsyncIterator[bytes]:
    for chunk in (b"abc", b"", b"d", b"efgh"):
        yield chunk


async def collected(part: range) -> bytes:
    return b"".join([chunk async for chunk in part_of(chunks(), part)])


@pytest.mark.parametrize("part", [range(start, stop) for start in range(8) for stop in range(start + 1, 9)])
def test_a_part_of_chunks_has_the_bytes_asked_for(part: range) -> None:
    assert asyncio.run(collected(part)) == b"abcdefgh"[part.start : part.stop]
