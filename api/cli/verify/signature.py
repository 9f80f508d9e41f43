"""The check of a manifest's signature with the public keys of an installation."""

import json
from pathlib import Path
from typing import Literal

import httpx
from pydantic import BaseModel, ValidationError

from api.cli.client import connection
from api.cli.errors import CommandError, ExitCode
from api.infra.signatures import KEYS_PATH, ManifestSignature, PublicKeys, is_valid
from api.spec.manifest import NAME, SIGNATURE

TIMEOUT_S = 10
UNSIGNED = (
    f"{NAME} has no signature, so nothing proves who made these files. Older releases of Attune did not sign models"
)


class CheckedSignature(BaseModel):
    key: str
    """Id of the key that signed."""
    status: Literal["valid", "invalid", "unchecked"]


def read_keys(source: str) -> PublicKeys:
    """Return the public keys of the server at an address, or in a saved attune-keys.json. Raise CommandError if they
    cannot be read."""
    try:
        if source.startswith(("http://", "https://")):
            answer = httpx.get(
                httpx.URL(source).copy_with(path=KEYS_PATH, query=None), timeout=TIMEOUT_S, **connection(source)
            )
            answer.raise_for_status()
            return PublicKeys.model_validate_json(answer.content)
        return PublicKeys.model_validate_json(Path(source).read_bytes())
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise CommandError(ExitCode.REFUSED, f"the public keys cannot be read from {source}: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise CommandError(
            ExitCode.REFUSED, f"{source} has no keys as {KEYS_PATH} lists them: {first['loc']}: {first['msg']}."
        ) from None


def check_signature(
    folder: Path, keys: PublicKeys | None, source: str | None
) -> tuple[CheckedSignature | None, list[str], list[str]]:
    """Return (signature, problems, notes) of the folder's manifest. Without `keys`, the signature is not checked.

    A missing signature is a problem if keys are given, and otherwise a note.
    """
    try:
        signature = ManifestSignature.model_validate(json.loads((folder / SIGNATURE).read_bytes()))
    except FileNotFoundError:
        return (None, [UNSIGNED], []) if keys else (None, [], [UNSIGNED])
    except ValueError:  # raised by pydantic and json
        return None, [f"{SIGNATURE} is damaged"], []
    if keys is None:
        note = (
            f"the signature by key {signature.key} was not checked: name the server that published the model, "
            "--public-key https://HOST, or its keys in a file"
        )
        return CheckedSignature(key=signature.key, status="unchecked"), [], [note]
    known = next((key for key in keys.keys if key.kid == signature.key), None)
    if known is None:
        problem = f"{NAME} is signed by key {signature.key}, which {source} does not list"
    elif not is_valid((folder / NAME).read_bytes(), signature, known):
        problem = f"{NAME} is not what key {signature.key} signed: the manifest or its signature was changed"
    else:
        return CheckedSignature(key=signature.key, status="valid"), [], []
    return CheckedSignature(key=signature.key, status="invalid"), [problem], []
