"""The only SQL: one file per table, the row and its queries together.

Times and leases are judged by the database's clock alone (`api.records.base.db_now`).
"""

from api.records import (
    arrays,
    base_models,
    dependencies,
    events,
    faults,
    files,
    idempotency,
    jobs,
    keys,
    models,
    permissions,
    pipelines,
    projects,
    queue,
    scans,
    trackings,
    turns,
    uploads,
    webhooks,
    workers,
)
from api.records.base import Base
from api.records.database import Database

__all__ = [
    "Base",
    "Database",
    "arrays",
    "base_models",
    "dependencies",
    "events",
    "faults",
    "files",
    "idempotency",
    "jobs",
    "keys",
    "models",
    "permissions",
    "pipelines",
    "projects",
    "queue",
    "scans",
    "trackings",
    "turns",
    "uploads",
    "webhooks",
    "workers",
]
