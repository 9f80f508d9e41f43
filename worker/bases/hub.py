"""Downloads of base models from the Hugging Face hub: the revision is resolved to a commit, and only the files of a
model are fetched."""

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from worker.bases.files import WANTED, Refused, require_safetensors

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def is_hub_id(source: str) -> bool:
    """Return whether the source has the form owner/name."""
    return len(source) <= 96 and HUB_ID.fullmatch(source) is not None


def download(hub_id: str, revision: str | None, folder: Path) -> str:
    """Download the model into the folder as plain files. Return the commit of the revision. Raise Refused if the hub
    does not provide the model."""
    try:
        info = HfApi().model_info(hub_id, revision=revision)
        if info.sha is None:
            raise Refused(f"the hub returned no commit of {hub_id}")
        require_safetensors([file.rfilename for file in info.siblings or []])
        snapshot_download(hub_id, revision=info.sha, local_dir=folder, allow_patterns=[*WANTED, "README.md"])
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        raise Refused(f"the hub answered {status} for {hub_id}@{revision or 'main'}: {_first_line(error)}") from error
    except Refused:
        raise
    except Exception as error:  # which ones there are depends on the client's HTTP library
        raise Refused(
            f"the hub could not be reached for {hub_id}: {_first_line(error)}. If this machine has no way to it, copy "
            "the model's folder here and name that"
        ) from error
    return info.sha


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
