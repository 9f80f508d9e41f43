import os
import secrets
import signal
import sysconfig
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.services.process import Server, accepts_connections, free_ports

BUCKET = "attune"

FLAGS = (
    "-s3",
    "-s3.iam=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-master.peers=none",  # one master needs no election
    "-master.telemetry=false",  # it reports to nobody
    "-master.volumeSizeLimitMB=1024",
    "-volume.max=0",  # as many volumes as the disk holds
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",  # its inner parts ask for no key: nobody else reaches them
)
"""As in docker-compose.yml."""

LISTENERS = ("master.port", "volume.port", "filer.port", "s3.port")
PORTS = tuple(flag for listener in LISTENERS for flag in (listener, f"{listener}.grpc"))


class SeaweedS3(Server):
    """Object storage that checks signatures and streams, as the real one does (moto accepts wrong secrets)."""

    name = "s3"
    stop_signal = signal.SIGKILL  # it takes seconds to say goodbye, and its data is thrown away

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    @property
    def env(self) -> dict[str, str]:
        """The standard variables, which obstore reads by itself: credentials are no part of a storage URL."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def start(self) -> None:
        weed = str(Path(sysconfig.get_path("scripts")) / "weed")
        ports = [f"-{flag}={port}" for flag, port in self.ports.items()]
        command = [weed, "server", f"-dir={self.folder}", *FLAGS, *ports]
        self.spawn(command, env=self.env, ready=self._holds_objects)

    def _holds_objects(self) -> bool:
        """A write and a read, not just an open port: the gateway answers long before its volumes do."""
        if not accepts_connections(self.ports["s3.port"]):
            return False
        store = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region="us-east-1",
            client_options={"allow_http": True, "timeout": "2s"},
            retry_config={"max_retries": 0},
        )
        try:
            store.put("ready", os.urandom(4096))
            return len(store.get("ready").bytes()) == 4096
        except (BaseError, OSError):
            return False
