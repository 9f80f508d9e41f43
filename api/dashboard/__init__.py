"""The dashboard: one page for all addresses, and its scripts and styles, which call the API as any client does.

A view is added with one file, `assets/views/NAME.js`, and one line in `VIEWS`. docs/internals/dashboard.md shows how.
"""

from api.dashboard.shell import install, is_page
from api.dashboard.views import VIEWS, View

__all__ = ["VIEWS", "View", "install", "is_page"]
