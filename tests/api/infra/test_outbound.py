import asyncio
import ipaddress
import socket
import threading

import pytest

from api.infra import outbound
from api.infra.outbound import DeliveryError, UrlRefused, check_url, is_public, post
from tests.receiver import receiving

PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"),
    *("2002:7f00:1::", "2001:0:7f00:1::", "::127.0.0.1", "2001:db8::1", "198.18.0.1", "240.0.0.1"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_not_everyone_reaches_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_what_everyone_reaches_is(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://example.com/",
            "ftp://example.com/",
            "https://",
            "https://user:pw@example.com/",
            "file:///etc/passwd",
        ),
        *("https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "//example.com", "https://exa\nmple/"),
        *("https://a..b/", f"https://{'a' * 64}.com/", "https://xn--a/"),
        *("gopher://x/", "https://169.254.169.254/latest/meta-data", "not a url", "http://10.0.0.1/"),
        *("https://a..b/", f"https://{'a' * 64}.com/", "https://ex ample.com/", "https://xn--zz/"),
        *("https://example.com:99999/", "https://example.com:0/"),
    ],
)
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        check_url(url, private_hosts={"10.0.0.2"})


def test_a_name_of_a_private_address_is_not_connected_to() -> None:
    with receiving() as receiver:
        url = f"https://localhost:{receiver.server_port}/"
        with pytest.raises(DeliveryError, match="not a public address"):
            asyncio.run(post(url, b"{}", {}, private_hosts=()))
        assert receiver.got == []


@pytest.mark.parametrize("number", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
def test_other_ways_to_write_loopback_lead_nowhere_either(number: str) -> None:
    with receiving() as receiver:
        with pytest.raises(DeliveryError):
            asyncio.run(post(f"https://{number}:{receiver.server_port}/", b"{}", {}, private_hosts=()))
        assert receiver.got == []


def test_a_redirect_is_an_answer_and_not_followed() -> None:
    with receiving() as receiver:
        receiver.status, receiver.headers = 307, {"location": f"http://127.0.0.1:{receiver.server_port}/inner"}
        assert asyncio.run(post(receiver.url, b"{}", {}, private_hosts={"127.0.0.1"})) == 307
        assert [path for path, _, _ in receiver.got] == ["/hook"]


def test_the_host_that_is_named_is_the_one_that_was_asked_for() -> None:
    with receiving() as receiver:
        url = f"http://localhost:{receiver.server_port}/hook?a=b"
        assert asyncio.run(post(url, b"{}", {}, private_hosts={"localhost"})) == 200
        ((path, headers, _),) = receiver.got
    assert (path, headers["host"]) == ("/hook?a=b", f"localhost:{receiver.server_port}")


def test_nobody_there_is_not_sent() -> None:
    with socket.socket() as held:  # or another process may listen on the port by now
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/"
        with pytest.raises(DeliveryError, match=r"the connection to .* failed"):
            asyncio.run(post(url, b"{}", {}, private_hosts={"127.0.0.1"}))


def test_names_that_are_looked_up_for_long_hold_up_no_other_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, real = threading.Event(), socket.getaddrinfo

    def look_up(host: str, *arguments: object, **options: object) -> object:
        if host == "slow.example.com":
            answered.wait()
            raise OSError
        return real(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(outbound, "DEADLINE_S", 0.2)

    async def main() -> list[BaseException | int]:
        posts = [post("https://slow.example.com/", b"{}", {}, private_hosts=()) for _ in range(40)]
        ends = await asyncio.gather(*posts, return_exceptions=True)
        await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("localhost", 80), 5)
        answered.set()
        return ends

    try:
        assert all(isinstance(end, DeliveryError) for end in asyncio.run(main()))
    finally:
        answered.set()
