"""The dashboard's cookie: its name and attributes, and the check that the dashboard sent a request with it."""

from urllib.parse import urlsplit

from fastapi import Response
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from api.errors import Forbidden

SAFE_METHODS = ("GET", "HEAD")


def token_of(scope: Scope) -> str | None:
    """Return the session's token from a request's cookies; None if the request has none."""
    return cookie_parser(Headers(scope=scope).get("cookie", "")).get(_name(scope))


def give(response: Response, scope: Scope, token: str, max_age_s: float) -> None:
    response.set_cookie(
        _name(scope), token, max_age=int(max_age_s), httponly=True, samesite="strict", secure=_is_secure(scope)
    )


def take_back(response: Response, scope: Scope) -> None:
    response.delete_cookie(_name(scope), httponly=True, samesite="strict", secure=_is_secure(scope))


def require_own_page(scope: Scope) -> None:
    """Raise Forbidden unless a page of the dashboard sent the request, which writes and uses the cookie.

    The cookie's SameSite attribute stops pages of other sites from sending the cookie, but not pages on other ports of
    this host.
    """
    headers = Headers(scope=scope)
    fetched_by = headers.get("sec-fetch-site")  # browsers omit this header on plain HTTP, except on loopback
    origin = headers.get("origin")
    if fetched_by is not None:
        own = fetched_by == "same-origin"
    else:
        # The scheme may differ: a proxy in front may have ended TLS.
        own = origin is not None and urlsplit(origin).netloc == headers.get("host")
    if not own:
        raise Forbidden(
            "A browser session can only be used by the dashboard's own pages: send an API key instead",
            code="foreign_origin",
        )


def _is_secure(scope: Scope) -> bool:
    """Return whether the browser used TLS. The server trusts a proxy's `X-Forwarded-Proto` if it trusts the proxy's
    address (uvicorn's `FORWARDED_ALLOW_IPS`, by default loopback)."""
    return bool(scope["scheme"] == "https")


def _name(scope: Scope) -> str:
    # Browsers accept a cookie with the prefix `__Host-` only from this host itself, over TLS. So no other host, such as
    # a subdomain, can plant one.
    return "__Host-attune" if _is_secure(scope) else "attune"
