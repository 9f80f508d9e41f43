"""The key with which the installation signs manifests: its creation, its rotation, and its public half."""

import time

import anyio

from api.context import Context
from api.infra import signatures
from api.infra.signatures import PublicKey, PublicKeys
from api.records import signing_keys
from api.records.signing_keys import SigningKey

KEEP_S = 5.0


def current(context: Context) -> SigningKey:
    """Return the key that signs. The first call creates it."""
    with context.database.write() as session:
        return signing_keys.current(session, signatures.new_key_pair)


def rotate(context: Context) -> SigningKey:
    """Replace the key. The signatures of the old key remain valid; its private half is deleted."""
    with context.database.write() as session:
        number = signing_keys.current(session, signatures.new_key_pair).number
        return signing_keys.add(session, number + 1, signatures.new_key_pair())


def public_keys(context: Context) -> PublicKeys:
    with context.database.read() as session:
        keys = signing_keys.listed(session)
    return PublicKeys(
        keys=[
            PublicKey(
                kid=key.id,
                x=key.public_key,
                created_at=int(key.created_at),
                retired_at=None if key.retired_at is None else int(key.retired_at),
            )
            for key in keys
        ]
    )


class PublishedKeys:
    """The public keys, which anyone may request. They are read from the database once in KEEP_S seconds at most."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reading = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)
        self._keys: PublicKeys | None = None
        self._read_at = 0.0

    async def read(self) -> PublicKeys:
        async with self._reading:
            if self._keys is None or time.monotonic() - self._read_at > KEEP_S:
                self._keys = await anyio.to_thread.run_sync(public_keys, self._context, limiter=self._thread)
                self._read_at = time.monotonic()
            return self._keys
