"""Attune as in production: the API and any number of workers, each started on its own."""

from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from api.settings import Settings
from tests.services.attune import ATTUNE
from tests.services.process import Server, free_ports


class AttuneApi(Server):
    name = "api"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder)
        self.port = free_ports(1)[0]
        self.environment = settings.environment() | {"ATTUNE_PORT": str(self.port)}

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        self.spawn([ATTUNE, "api"], env=self.environment, ready=self._answers)

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


class AttuneWorker(Server):
    """Both stages, with a work folder of its own, as on a machine of its own."""

    name = "worker"
    stop_timeout_s = 90.0

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder)
        self.environment = settings.environment() | {
            "ATTUNE_WORK_DIR": str(folder / "work"),
            "ATTUNE_SAMPLER": "false",  # another process that imports torch
        }

    def start(self) -> None:
        self.spawn([ATTUNE, "worker"], env=self.environment, ready=self._listens)

    def _listens(self) -> bool:
        return self.log.read_text(errors="replace").count("ready.") >= 2
