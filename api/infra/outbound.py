"""Requests to addresses that users gave us. Nobody gets to see, through them, what only this machine can reach.

The host is resolved once, every address that it has must be a public one, and the connection goes to the address that
was looked at (a name that is resolved again may then say another). Redirects are not followed and bodies not read.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address

import httpx

from api.errors import InvalidRequest

DEADLINE_S = 15.0
"""Of a whole request, so that one that trickles ends too."""
STEP_S = 5.0
MAX_ADDRESSES = 4
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")


class UrlRefused(InvalidRequest):
    param = "url"
    code = "invalid_url"


class DeliveryError(Exception):
    """Why no answer came, for the user to read."""


def check_url(url: str, private_hosts: Collection[str]) -> httpx.URL:
    """`https://host[:port]/…` without a password in it; plain http only to hosts that the operator named."""
    try:
        parsed = httpx.URL(url)
        host = parsed.host
        _name(parsed).encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:  # the latter of a name that no resolver takes
        raise UrlRefused("url is not a URL, or its host not a name") from error
    if parsed.userinfo or not host:
        raise UrlRefused("url needs a host, and must not hold a user or a password")
    if parsed.scheme != "https" and not (parsed.scheme == "http" and host in private_hosts):
        raise UrlRefused("url must begin with https://")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise UrlRefused("url: a port is 1 to 65535")
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        if not _NAME.fullmatch(parsed.raw_host.decode("ascii")):
            raise UrlRefused("url needs the name of a host: parts of at most 63 letters, digits and hyphens") from error
        return parsed  # a name: its addresses are looked at when there is something to send
    if not is_public(address) and host not in private_hosts:
        raise UrlRefused(f"url: {address} is not a public address, and not one that the operator has allowed")
    return parsed


def _name(target: httpx.URL) -> str:
    """The host in ASCII, as it is resolved, told to the receiver, and looked for in its certificate."""
    return target.raw_host.decode("ascii")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether everyone reaches the same machine there. Addresses that hold another inside are judged by that, or not
    at all public.
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
    """The status of the answer. Raises DeliveryError."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            target = check_url(url, private_hosts)
            return await _send(target, await _addresses(target, private_hosts), body, headers, tls)
    except TimeoutError as error:
        raise DeliveryError(f"there was no answer within {DEADLINE_S:.0f} seconds") from error
    except UrlRefused as error:
        raise DeliveryError(error.message) from error


async def _addresses(target: httpx.URL, private_hosts: Collection[str]) -> list[str]:
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(_name(target), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DeliveryError(f"the name {target.host} cannot be resolved") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if target.host not in private_hosts:
        for address in addresses:
            if not is_public(ipaddress.ip_address(address.partition("%")[0])):
                raise DeliveryError(f"{target.host} is {address}, which is not a public address")
    return addresses[:MAX_ADDRESSES]


async def _send(
    target: httpx.URL, addresses: list[str], body: bytes, headers: dict[str, str], tls: ssl.SSLContext | None
) -> int:
    named = {**headers, "host": target.netloc.decode("ascii")}
    failure = "no address"
    async with httpx.AsyncClient(trust_env=False, timeout=STEP_S, verify=tls if tls is not None else True) as client:
        for address in addresses:
            request = client.build_request(
                "POST",
                target.copy_with(host=address),
                content=body,
                headers=named,
                extensions={"sni_hostname": _name(target)},
            )
            try:
                answer = await client.send(request, stream=True, follow_redirects=False)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = type(error).__name__
                continue
            except httpx.HTTPError as error:
                raise DeliveryError(f"the connection failed ({type(error).__name__})") from error
            await answer.aclose()
            return answer.status_code
    raise DeliveryError(f"{target.host} could not be connected to ({failure})")
