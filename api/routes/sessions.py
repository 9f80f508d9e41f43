"""Sign-in and sign-out of the dashboard. Other clients send their key with each request."""

from typing import cast

from fastapi import APIRouter, Request, Response

from api.errors import Forbidden
from api.http import session_cookie
from api.http.deps import Ctx, Who
from api.http.fair_route import FairRoute
from api.schemas.sessions import LinkObject, LinkToken, SessionObject, SignIn
from api.services import sessions
from api.services.project_limits import RequestRate

router = APIRouter(prefix="/session", include_in_schema=False)
authenticated = APIRouter(prefix="/session", include_in_schema=False, route_class=FairRoute)


@router.post("")
def sign_in(body: SignIn, request: Request, response: Response, context: Ctx) -> SessionObject:
    """Exchange an API key for a cookie."""
    _take_attempt(request)
    token, signed_in = sessions.sign_in(context, body.key.strip())
    session_cookie.give(response, request.scope, token, context.settings.session_s)
    return SessionObject.of(signed_in)


@router.post("/links/describe")
def describe_link(body: LinkToken, request: Request, context: Ctx) -> SessionObject:
    """Return what a link would sign in to. The dashboard shows it before somebody signs in, since anybody can send
    links."""
    session_cookie.require_own_page(request.scope)
    _take_attempt(request)
    return SessionObject.of(sessions.describe_link(context, body.token))


@router.post("/links/spend")
def sign_in_by_link(body: LinkToken, request: Request, response: Response, context: Ctx) -> SessionObject:
    """Exchange the token of a link for a cookie. Only the dashboard's own page may, so that no other page signs its
    visitors in."""
    session_cookie.require_own_page(request.scope)
    _take_attempt(request)
    token, signed_in = sessions.sign_in_by_link(context, body.token)
    session_cookie.give(response, request.scope, token, context.settings.session_s)
    return SessionObject.of(signed_in)


def _take_attempt(request: Request) -> None:
    attempts = cast(RequestRate, request.app.state.sign_ins)
    attempts.take(request.client.host if request.client else "")


@authenticated.post("/links")
def create_link(request: Request, context: Ctx, caller: Who) -> LinkObject:
    """Create a link that signs a browser in once. A session creates none, because it could then outlive itself."""
    if "authorization" not in request.headers:
        raise Forbidden("A link is created with an API key: run `attune open`")
    path, expires_at = sessions.create_link(context, caller.key_id)
    return LinkObject(path=path, expires_at=int(expires_at))


@authenticated.get("")
def show_session(context: Ctx, caller: Who) -> SessionObject:
    """Return the project and the key of the request."""
    return SessionObject.of(sessions.describe(context, caller))


@authenticated.delete("")
def sign_out(request: Request, context: Ctx) -> Response:
    """End the browser's session and remove its cookie."""
    token = session_cookie.token_of(request.scope)
    if token is not None:
        sessions.sign_out(context, token)
    response = Response(status_code=204)
    session_cookie.take_back(response, request.scope)
    return response
