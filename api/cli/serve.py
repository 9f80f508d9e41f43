"""`attune api`: the API of a production deployment."""

from typing import Annotated

import structlog
import typer
import uvicorn

from api.cli import deployment
from api.cli.errors import Command, CommandError, ExitCode
from api.cli.options import Config, DataDirectory, Host, Port, load_operator_settings
from api.cli.service import LISTENER
from api.http.uvicorn_protocol import HttpProtocol, HttpServer, make_room
from api.infra.leftover_previews import removing_leftover_previews
from api.infra.logs import configure_logging
from api.main import create_app
from api.settings import Settings

log = structlog.get_logger(__name__)

BACKLOG = 128
"""Maximum number of connections that the kernel queues until the server accepts them."""

api_app = typer.Typer(add_completion=False)


@api_app.command(cls=Command, epilog="Example: attune api --host 0.0.0.0 --port 8000")
def serve_api(
    data_dir: DataDirectory = None,
    host: Host = None,
    port: Port = None,
    fd: Annotated[
        int | None, typer.Option(hidden=True, envvar=LISTENER, help="An inherited socket to listen on.")
    ] = None,
    config: Config = None,
) -> None:
    """Serve the API alone. Run `attune migrate` first."""
    settings = load_operator_settings(data_dir, config, host=host, port=port)
    configure_logging(settings.log_level)
    deployment.require(settings)
    if settings.broker_url.get_secret_value():
        _require_broker_password(settings)
    HttpProtocol.max_connections = make_room(settings.max_connections)
    # At least a quarter of the connections is left for other requests.
    streams = min(settings.max_streams, HttpProtocol.max_connections * 3 // 4)
    if streams < settings.max_streams:
        log.warning("fewer_streams", max_streams=streams, max_connections=HttpProtocol.max_connections)
    server = uvicorn.Config(
        create_app(settings.model_copy(update={"max_streams": streams})),
        host=settings.host,
        port=settings.port,
        fd=fd,
        http=HttpProtocol,
        log_config=None,
        access_log=False,  # api.http.middleware logs each request with its id
        server_header=False,
        timeout_graceful_shutdown=10,
        backlog=BACKLOG,
    )
    with removing_leftover_previews(settings):
        HttpServer(server).run()


def _require_broker_password(settings: Settings) -> None:
    """Raise CommandError if the broker refuses the password.

    An unreachable broker is only logged, because workers also find jobs by their regular sweeps of the database.
    """
    try:
        deployment.require_connection(settings, wait_s=0)
    except CommandError as error:
        if error.code is not ExitCode.UNAVAILABLE:
            raise
        log.warning("broker_unreachable", error=str(error))
