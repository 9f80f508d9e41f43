"""The public keys of the installation, for anyone who verifies a published model."""

from fastapi import APIRouter, Request

from api.infra.signatures import KEYS_PATH, PublicKeys

router = APIRouter(tags=["models"])


@router.get(KEYS_PATH)
async def list_signing_keys(request: Request) -> PublicKeys:
    """List the public keys that verify the signatures of published models, the current one first. No API key is needed.

    Each is a JSON Web Key (RFC 8037). `manifest.sig.json` beside a `manifest.json` has the Ed25519 signature of the
    bytes of `manifest.json`, and the `kid` of the key that signed.
    """
    keys: PublicKeys = await request.app.state.signing_keys.read()
    return keys
