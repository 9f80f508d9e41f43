"""HTTP requests to users' addresses, protected against server-side request forgery.

The host is resolved once, and all its addresses must be public. The connection goes to one of the checked addresses,
because a second resolution may return another one. Redirects are not followed, and response bodies are not read.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Collection
from functools import cache, partial
from ipaddress import IPv4Address, IPv6Address

import anyio
import httpx

from api.errors import InvalidRequest

DEADLINE_S = 15.0
"""Time limit of a whole request in seconds. It also ends a response that arrives slowly but never pauses for STEP_S."""
STEP_S = 5.0
"""Time limit of each connect, write and read, in seconds."""
MAX_ADDRESSES = 4
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")


class UrlRefused(InvalidRequest):
    param = "url"
    code = "invalid_url"


class DeliveryError(Exception):
    """The request got no response. The message is for the user."""


def check_url(url: str, private_hosts: Collection[str]) -> httpx.URL:
    """Return the parsed URL. Raises UrlRefused unless it has the form `https://host[:port]/…`, without a password.

    Plain http is accepted for the operator's `private_hosts` only.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host
        _name(parsed).encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
        raise UrlRefused("url is not a URL, or its host is not a valid name") from error
    if parsed.userinfo or not host:
        raise UrlRefused("url needs a host, and must not hold a user or a password")
    if parsed.scheme != "https" and not (parsed.scheme == "http" and host in private_hosts):
        raise UrlRefused("url must begin with https://")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise UrlRefused("url: the port must be from 1 to 65535")
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        if not _NAME.fullmatch(parsed.raw_host.decode("ascii")):
            raise UrlRefused("url needs the name of a host: parts of at most 63 letters, digits and hyphens") from error
        return parsed  # a name: its addresses are checked at each delivery
    if not is_public(address) and host not in private_hosts:
        raise UrlRefused(f"url: {address} is neither a public address nor one that the operator has allowed")
    return parsed


def _name(target: httpx.URL) -> str:
    """Return the host name in ASCII, for the resolver, the Host header and the check of the certificate."""
    return target.raw_host.decode("ascii")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether the address is globally reachable.

    An IPv4-mapped address counts as its IPv4 address. Other IPv6 addresses that embed an IPv4 address (6to4, Teredo) do
    not count as reachable.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in _PUBLIC_V6 or address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


async def post(
    url: str, body: bytes, headers: dict[str, str], private_hosts: Collection[str], *, tls: ssl.SSLContext | None = None
) -> int:
    """Send a POST request. Return the status of the response. Raises DeliveryError if there is none."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            target = check_url(url, private_hosts)
            return await _send(target, await _addresses(target, private_hosts), body, headers, tls)
    except TimeoutError as error:
        raise DeliveryError(f"there was no response within {DEADLINE_S:.0f} seconds") from error
    except UrlRefused as error:
        raise DeliveryError(error.message) from error


async def _addresses(target: httpx.URL, private_hosts: Collection[str]) -> list[str]:
    port = target.port or (443 if target.scheme == "https" else 80)
    # Not by the event loop, whose few threads also look up the broker's name: a user's name server may take a minute.
    look_up = partial(socket.getaddrinfo, _name(target), port, type=socket.SOCK_STREAM)
    try:
        entries = await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except OSError as error:
        raise DeliveryError(f"the name {target.host} cannot be resolved") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    if target.host not in private_hosts:
        for address in addresses:
            if not is_public(ipaddress.ip_address(address.partition("%")[0])):
                raise DeliveryError(f"{target.host} resolves to {address}, which is not a public address")
    return addresses[:MAX_ADDRESSES]


@cache
def _public_certificates() -> ssl.SSLContext:
    """Return the TLS settings of all requests. Reading the certificates takes 30 ms."""
    return httpx.create_ssl_context(trust_env=False)


async def _send(
    target: httpx.URL, addresses: list[str], body: bytes, headers: dict[str, str], tls: ssl.SSLContext | None
) -> int:
    with_host = {**headers, "host": target.netloc.decode("ascii")}
    failure = "no address"
    async with httpx.AsyncClient(trust_env=False, timeout=STEP_S, verify=tls or _public_certificates()) as client:
        for address in addresses:
            request = client.build_request(
                "POST",
                target.copy_with(host=address),
                content=body,
                headers=with_host,
                extensions={"sni_hostname": _name(target)},
            )
            try:
                response = await client.send(request, stream=True, follow_redirects=False)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = type(error).__name__
                continue
            except httpx.HTTPError as error:
                raise DeliveryError(f"the connection failed ({type(error).__name__})") from error
            await response.aclose()
            return response.status_code
    raise DeliveryError(f"the connection to {target.host} failed ({failure})")
