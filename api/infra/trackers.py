"""Trackers: where the operator has metrics sent besides the database. What sends is in worker/delivery/trackers."""

from importlib.util import find_spec

from api.settings import Settings

TITLES = {"wandb": "Weights & Biases", "mlflow": "MLflow", "tensorboard": "TensorBoard"}
"""Every tracker that there is; each is an extra of the package, by the same name."""
_LIBRARIES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboardX"}


class MissingLibrary(Exception):
    """The settings name a tracker that this installation has no library for."""


def configured(settings: Settings) -> list[str]:
    """The trackers that the settings are enough for."""
    has = {
        "wandb": settings.wandb_mode == "offline" or bool(settings.wandb_api_key.get_secret_value()),
        "mlflow": bool(settings.mlflow_tracking_uri.get_secret_value()),
        "tensorboard": settings.tensorboard_dir is not None,
    }
    return [name for name in TITLES if has[name]]


def require_libraries(settings: Settings) -> None:
    """For whoever starts a deliverer: better now than at the first job's metrics. Raises MissingLibrary."""
    missing = [name for name in configured(settings) if find_spec(_LIBRARIES[name]) is None]
    if missing:
        titles = " and ".join(TITLES[name] for name in missing)
        raise MissingLibrary(
            f"{titles} cannot be used: the settings ask for it, and its library is not installed. Install it with "
            f"pip install 'attune[{','.join(missing)}]', or leave the settings out"
        )
