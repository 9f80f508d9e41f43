"""The only SQL: one file for each table, with its row class and its queries.

Times and leases are compared with the database's clock only (`api.records.base.db_now`).
"""

from api.records import (
    arrays,
    base_models,
    dependencies,
    events,
    faults,
    files,
    idempotency,
    installation,
    jobs,
    keys,
    models,
    permissions,
    pipelines,
    projects,
    queue,
    scans,
    sessions,
    stored_bytes,
    trackings,
    turns,
    uploads,
    usage,
    webhook_deliveries,
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
    "installation",
    "jobs",
    "keys",
    "models",
    "permissions",
    "pipelines",
    "projects",
    "queue",
    "scans",
    "sessions",
    "stored_bytes",
    "trackings",
    "turns",
    "uploads",
    "usage",
    "webhook_deliveries",
    "webhooks",
    "workers",
]
