"""The API alone, as in production."""

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
