from fastapi import APIRouter

from api.http.deps import Ctx, Who
from api.http.fair_route import FairRoute
from api.schemas.catalog import CatalogObject
from api.services import catalog

router = APIRouter(prefix="/fine_tuning/catalog", tags=["catalog"], route_class=FairRoute)


@router.get("")
def show_catalog(context: Ctx, caller: Who) -> CatalogObject:
    """List every technique, method, row format, grader and base model, and which of them can be combined."""
    return CatalogObject.of(catalog.choices(context))
