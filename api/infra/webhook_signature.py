"""Body and headers of a webhook request. The signature follows standardwebhooks.com, so that OpenAI's
`webhooks.unwrap` can verify it."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence

PREFIX = "whsec_"


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def message(event_id: str, event_type: str, object_id: str, created_at: float) -> bytes:
    """Return the body of the request, which is the same in every attempt of a delivery."""
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(created_at),
        "type": event_type,
        "data": {"id": object_id},
    }
    return json.dumps(event).encode()


def headers(event_id: str, body: bytes, with_secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers, with a signature by each secret.

    Call this anew for each attempt, because receivers refuse signatures older than five minutes.
    """
    timestamp = str(int(time.time()))
    return {
        "content-type": "application/json",
        "user-agent": "Attune",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_signature(event_id, timestamp, body, secret) for secret in with_secrets),
    }


def _signature(event_id: str, timestamp: str, body: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = b".".join((event_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
