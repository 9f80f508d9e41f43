"""Request bodies that middleware reads as a whole, and passes on."""

from starlette.types import Message, Receive

from api.errors import InvalidRequest


async def read_body(receive: Receive) -> bytes:
    """Return the whole body. Raise InvalidRequest if the client disconnects before its end."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("The connection was lost before the whole body arrived")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that first returns the body, which has already been read, and then calls `receive`."""
    read = False

    async def receive_replayed() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_replayed
