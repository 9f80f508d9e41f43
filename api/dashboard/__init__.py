"""The dashboard: one page for all addresses, and its scripts and styles, which call the API as any client does.

A view is added with one file, `assets/views/NAME.js`, and one line in `VIEWS`. docs/internals/dashboard.md shows how.
"""

from fastapi import FastAPI

from api.dashboard import documentation, shell
from api.dashboard.views import VIEWS, View

__all__ = ["VIEWS", "View", "install", "is_page"]


def install(app: FastAPI) -> None:
    """Add the page, its assets and the documentation to the app."""
    shell.install(app)
    documentation.install(app)


def is_page(path: str) -> bool:
    """Return whether the path is an address of the dashboard, of its assets or of the documentation."""
    return shell.is_page(path) or documentation.is_document(path)
