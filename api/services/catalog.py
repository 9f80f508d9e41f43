"""The choices for a new job: the combinations of techniques and methods, and this server's models."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.context import Context
from api.records import base_models
from api.records.base_models import BaseModelRow
from api.spec import catalog
from api.spec.catalog import Combination


@dataclass(frozen=True)
class Choices:
    combinations: list[Combination]
    base_models: Sequence[BaseModelRow]
    judges: list[str]
    """Names of the judges on other servers."""


def choices(context: Context) -> Choices:
    with context.database.read() as session:
        bases = base_models.listed(session)
    return Choices(list(catalog.combinations()), bases, sorted(context.settings.judges))
