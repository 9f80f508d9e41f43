"""What an asynchronous iterator gives, for tests that are not."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")


def collected(stream: AsyncIterator[T]) -> list[T]:
    async def collect() -> list[T]:
        return [each async for each in stream]

    return asyncio.run(collect())
