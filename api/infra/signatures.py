"""Ed25519 signatures of published manifests, and the document in which an installation publishes its keys."""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AfterValidator, BaseModel, Field

KEYS_PATH = "/.well-known/attune-keys.json"

ID_LENGTH = 16
"""Number of hexadecimal digits of a key's id."""


def _decoded(text: str) -> bytes:
    """Return the bytes that base64url without padding encodes (RFC 7515). Raises ValueError for other text."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("is not base64url") from None


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _public_key(text: str) -> str:
    if len(_decoded(text)) != 32:
        raise ValueError("is not the 32 bytes of an Ed25519 key")
    return text


class PublicKey(BaseModel):
    """A public key as a JSON Web Key (RFC 8037)."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    use: Literal["sig"] = "sig"
    kid: str
    """Id of the key: the first 16 hexadecimal digits of the SHA-256 of its 32 bytes."""
    x: Annotated[str, AfterValidator(_public_key)]
    """The key's 32 bytes in base64url."""
    created_at: int | None = None
    retired_at: int | None = None
    """Time at which another key replaced this one; null for the current key."""


class PublicKeys(BaseModel):
    """The keys of an installation, the current one first. The signatures of retired keys remain valid."""

    keys: list[PublicKey]


class ManifestSignature(BaseModel):
    """`manifest.sig.json`: the signature of the exact bytes of the `manifest.json` beside it."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    key: Annotated[str, Field(max_length=64)]
    """Id of the key that signed (`kid`)."""
    signature: Annotated[str, Field(max_length=128)]
    """The signature's 64 bytes in base64url."""


@dataclass(frozen=True)
class KeyPair:
    id: str
    public: str
    private: str
    """32 bytes in base64url, like `public`."""


def new_key_pair() -> KeyPair:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return KeyPair(
        hashlib.sha256(public).hexdigest()[:ID_LENGTH], _encoded(public), _encoded(private.private_bytes_raw())
    )


def sign(content: bytes, key_id: str, private: str) -> bytes:
    """Return the content of `manifest.sig.json`, with the signature of `content`."""
    signature = Ed25519PrivateKey.from_private_bytes(_decoded(private)).sign(content)
    document = ManifestSignature(key=key_id, signature=_encoded(signature))
    return json.dumps(document.model_dump(), indent=1).encode() + b"\n"


def is_valid(content: bytes, signature: ManifestSignature, key: PublicKey) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(_decoded(key.x)).verify(_decoded(signature.signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True
