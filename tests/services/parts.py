"""The API alone, as in production."""

from pathlib import Path

from api.settings import Settings
from tests.services.attune import ATTUNE
from tests.services.process import Server, answers, free_ports


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
        ready = f"http://127.0.0.1:{self.port}/readyz"
        self.spawn([ATTUNE, "api"], env=self.environment, ready=lambda: answers(ready))
