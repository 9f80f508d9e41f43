from fastapi import APIRouter

from api.http.deps import Ctx, Who
from api.http.fair_route import FairRoute
from api.schemas.catalog import CatalogObject
from api.services import catalog

router = APIRouter(prefix="/fine_tuning/catalog", tags=["catalog"], route_class=FairRoute)


@router.get("")
def show_catalog(context: Ctx, caller: Who) -> CatalogObject:
    """Every technique, method, format of rows, grader and base model, and which of them go together."""
    return CatalogObject.of(catalog.choices(context))
