"""Checks of a process before it starts: whether the schema, the storage and the broker are available and belong
together.

Without these checks, a worker with another storage than the API's would use up the retries of every job that it claims,
and a worker with a wrong password for the broker would receive no notifications.
"""

import time

import structlog
from redis import AuthenticationError, RedisError, ResponseError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from api.cli.errors import CommandError, ExitCode
from api.context import Context
from api.infra.doorbell import require_broker
from api.infra.storage import StorageUnavailable
from api.records.database import is_outage
from api.records.migrate import WrongSchema, migrate, require_current
from api.services import signing, storage_marker
from api.services.diagnosis import database_remedy
from api.services.storage_marker import WrongStorage
from api.settings import Settings

log = structlog.get_logger(__name__)

BROKER_WAIT_S = 15.0
"""Maximum seconds that a worker waits for a broker that starts at the same time."""
RETRY_S = 0.5


def prepare(context: Context) -> None:
    """Upgrade the schema, tie a new database to its storage, and create its signing key.

    Raise CommandError if the database cannot be used, if the schema is of a newer version, or if the storage is
    unavailable or belongs to another database.
    """
    try:
        migrate(context.database)
        storage_marker.prepare(context)
        storage_marker.require(context)
        signing.current(context)
    except (WrongSchema, WrongStorage) as error:
        raise CommandError(ExitCode.REFUSED, str(error)) from None
    except SQLAlchemyError as error:
        raise database_error(context.settings, error) from None
    except StorageUnavailable as error:
        raise storage_error(error) from None


def require(settings: Settings) -> None:
    """Raise CommandError unless the schema is current and the storage belongs to the database.

    An unavailable storage is only logged.
    """
    context = Context.open(settings)
    try:
        require_current(context.database)
        storage_marker.require(context)
    except (WrongSchema, WrongStorage) as error:
        raise CommandError(ExitCode.REFUSED, str(error)) from None
    except SQLAlchemyError as error:
        raise database_error(settings, error) from None
    except StorageUnavailable as error:
        # An outage is temporary: until it ends, workers pause, and the API responds with 503.
        log.warning("storage_unchecked", error=str(error))
    finally:
        context.database.dispose()


def storage_error(error: StorageUnavailable) -> CommandError:
    """Return the error of a command that cannot use its storage."""
    remedy = "check ATTUNE_STORAGE_URL and its credentials."
    return CommandError(ExitCode.UNAVAILABLE, f"The object storage cannot be used ({error})", remedy)


def database_error(settings: Settings, error: SQLAlchemyError) -> CommandError:
    """Return the error of a command that cannot use its database. Raise the given error if it is a fault of Attune."""
    if not is_outage(error):
        raise error
    address = make_url(settings.database).render_as_string(hide_password=True)
    reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
    message = f"The database {address} cannot be used ({reason}). {database_remedy(settings)}"
    return CommandError(ExitCode.UNAVAILABLE, message)


def require_connection(settings: Settings, *, wait_s: float) -> None:
    """Raise CommandError if the broker refuses the password, or does not answer within `wait_s` seconds."""
    give_up_at = time.monotonic() + wait_s
    address = settings.broker_url.get_secret_value().rpartition("@")[2].removeprefix("redis://")
    while True:
        try:
            require_broker(settings.broker_url)
            return
        except (AuthenticationError, ResponseError) as error:
            message = f"The broker at {address} refuses the connection ({error}): correct ATTUNE_BROKER_URL."
            raise CommandError(ExitCode.REFUSED, message) from None
        except RedisError as error:
            if time.monotonic() >= give_up_at:
                message = (
                    f"The broker at {address} cannot be reached ({error}): start it, or correct ATTUNE_BROKER_URL."
                )
                raise CommandError(ExitCode.UNAVAILABLE, message) from None
            time.sleep(RETRY_S)
