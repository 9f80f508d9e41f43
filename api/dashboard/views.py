"""The list of views: their addresses, modules and places in the navigation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    name: str
    """First part of the address, and the module in `assets/views/` that shows it."""
    title: str
    item: str | None = None
    """Module that shows `/NAME/ID`; None if there are no such addresses."""
    key: str | None = None
    """Key that opens the view when it is pressed after `g`; None if there is no such key."""
    listed: bool = True
    """Whether the navigation has a link to it."""


VIEWS = (
    View("jobs", "Jobs", item="job", key="j"),
    View("new", "New job", listed=False),
    View("pipelines", "Pipelines", item="pipeline", key="p"),
    View("compare", "Compare", listed=False),
    View("files", "Files", item="file", key="f"),
    View("models", "Models", item="model", key="m"),
    View("evals", "Evals", item="eval", key="e"),
    View("batches", "Batches", item="batch", key="b"),
    View("workers", "Workers", key="w"),
    View("usage", "Usage", key="u"),
    View("webhooks", "Webhooks", item="webhook", key="h"),
    View("keys", "Keys", key="k"),
    View("health", "Health", key="s"),
)
"""All views, in the order of the navigation. The first is the start page."""
