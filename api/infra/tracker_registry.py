"""The experiment trackers that the settings configure. worker/delivery/trackers sends them the metrics of jobs."""

from importlib.util import find_spec

from api.settings import Settings

TITLES = {"wandb": "Weights & Biases", "mlflow": "MLflow", "tensorboard": "TensorBoard"}
"""{name of each supported tracker: its display name}. `pip install '.[NAME]'` installs the tracker's library."""
_LIBRARIES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboardX"}


class MissingLibrary(Exception):
    """The settings configure a tracker whose library is not installed."""


def configured(settings: Settings) -> list[str]:
    """Return the names of the trackers that the settings configure."""
    has = {
        "wandb": settings.wandb_mode == "offline" or bool(settings.wandb_api_key.get_secret_value()),
        "mlflow": bool(settings.mlflow_tracking_uri.get_secret_value()),
        "tensorboard": settings.tensorboard_dir is not None,
    }
    return [name for name in TITLES if has[name]]


def require_libraries(settings: Settings) -> None:
    """Raise MissingLibrary if a configured tracker's library is not installed. Call it before a deliverer starts."""
    missing = [name for name in configured(settings) if find_spec(_LIBRARIES[name]) is None]
    if missing:
        titles = " and ".join(TITLES[name] for name in missing)
        raise MissingLibrary(
            f"The settings configure {titles}, but the library is not installed. Install it with "
            f"pip install '.[{','.join(missing)}]' in the folder of Attune's source, or remove the settings"
        )
