"""The dashboard's page, its assets, and its session in place of a key."""

import hashlib
import re
import time

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.context import Context
from api.records.sign_in_links import SignInLink
from api.services import keys
from tests.api.conftest import client_of

UPLOT_SHA256 = "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2"
"""Of dist/uPlot.iife.min.js in uPlot's own release 1.6.31."""
OWN = {"origin": "http://testserver"}
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def browser(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def sign_in(browser: TestClient, served: Context, scope: str = "write") -> str:
    """Sign in with a new key. Return the key's id."""
    key, plain = keys.create(served, project="default", name="mine", scope=scope)
    answer = browser.post("/session", json={"key": plain})
    assert answer.status_code == 200, answer.text
    assert answer.json()["project"] == "default"
    return key.id


@pytest.mark.parametrize("path", ["/", "/jobs"])
def test_every_address_shows_the_same_page_without_a_key(browser: TestClient, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert browser.get(path, headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_assets_are_kept_for_ever_at_an_address_of_their_content(browser: TestClient) -> None:
    root = re.findall(r"/assets/\w+/", browser.get("/").text)[0]
    chart = browser.get(f"{root}uplot.iife.min.js")
    assert hashlib.sha256(chart.content).hexdigest() == UPLOT_SHA256
    for name in ("app.js", "style.css", "views/jobs.js"):
        answer = browser.get(root + name)
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert browser.get(f"{root}missing.js").headers["cache-control"] == "no-store"


def test_the_page_has_its_theme_before_any_script_runs(browser: TestClient) -> None:
    assert 'data-theme="dark"' in browser.get("/", headers={"cookie": "theme=dark"}).text
    assert "onload" not in browser.get("/", headers={"cookie": 'theme="onload"'}).text


def test_a_session_stands_in_for_its_key_until_sign_out(browser: TestClient, served: Context) -> None:
    assert browser.get(JOBS).status_code == 401
    sign_in(browser, served)
    assert browser.get(JOBS).status_code == 200
    assert browser.get("/session").json()["key"]["name"] == "mine"
    cookie = browser.cookies["attune"]
    assert browser.delete("/session", headers=OWN).status_code == 204
    assert browser.get(JOBS, headers={"cookie": f"attune={cookie}"}).json()["error"]["code"] == "session_ended"


def test_revoking_a_key_ends_its_sessions(browser: TestClient, served: Context) -> None:
    key_id = sign_in(browser, served)
    keys.revoke(served, key_id)
    assert browser.get(JOBS).json()["error"]["code"] == "session_ended"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://testserver:3000"},
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"sec-fetch-site": "same-site", **OWN},
        {"sec-fetch-site": "cross-site", **OWN},
    ],
)
def test_other_pages_cannot_write_with_a_session(browser: TestClient, served: Context, headers: dict[str, str]) -> None:
    sign_in(browser, served)
    answer = browser.post(f"{JOBS}/ftjob-1/cancel", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")


@pytest.mark.parametrize("headers", [OWN, {"sec-fetch-site": "same-origin"}])
def test_the_page_itself_can_write(browser: TestClient, served: Context, headers: dict[str, str]) -> None:
    sign_in(browser, served)
    assert browser.post(f"{JOBS}/ftjob-1/cancel", headers=headers).json()["error"]["code"] == "fine_tune_not_found"


def test_a_session_of_a_reading_key_reads_and_signs_out(browser: TestClient, served: Context) -> None:
    sign_in(browser, served, scope="read")
    assert browser.post(f"{JOBS}/ftjob-1/cancel", headers=OWN).json()["error"]["code"] == "insufficient_permissions"
    assert browser.delete("/session", headers=OWN).status_code == 204


def test_a_key_in_the_header_counts_and_not_the_cookie(app: FastAPI, browser: TestClient, served: Context) -> None:
    sign_in(browser, served)
    other = client_of(app, "other")
    other.cookies.update(browser.cookies)
    assert other.get("/session").json()["project"] == "other"


def test_over_tls_the_cookie_is_secure_and_of_this_host(app: FastAPI, served: Context) -> None:
    browser = TestClient(app, base_url="https://testserver")
    sign_in(browser, served)
    assert list(browser.cookies) == ["__Host-attune"]
    assert all(cookie.secure for cookie in browser.cookies.jar)


def test_attempts_to_sign_in_are_limited(browser: TestClient) -> None:
    answers = [browser.post("/session", json={"key": "sk-attune-guess"}) for _ in range(12)]
    assert {answer.status_code for answer in answers[:10]} == {401}
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0


def a_link(client: TestClient) -> str:
    """Create a link with the client's key. Return its token."""
    answer = client.post("/session/links")
    assert answer.status_code == 200, answer.text
    assert 590 < answer.json()["expires_at"] - time.time() <= 600
    return str(answer.json()["path"]).removeprefix("/sign-in#token=")


def spend(browser: TestClient, token: str, headers: dict[str, str] = OWN) -> tuple[int, str]:
    answer = browser.post("/session/links/spend", json={"token": token}, headers=headers)
    return answer.status_code, answer.json().get("project") or answer.json()["error"]["code"]


def test_a_link_signs_one_browser_in_once(app: FastAPI, browser: TestClient) -> None:
    token = a_link(client_of(app, "other", scope="read"))
    assert browser.get("/sign-in").status_code == 200
    assert browser.get("/session/links/spend").status_code == 401
    assert spend(browser, token, {"origin": "https://elsewhere.example"}) == (403, "foreign_origin")
    assert spend(browser, token) == (200, "other")
    assert browser.get("/session").json()["scope"] == "read"
    assert spend(TestClient(app), token) == (401, "sign_in_link_spent")


def test_a_link_tells_its_project_and_key_before_it_is_spent(app: FastAPI, browser: TestClient) -> None:
    token = a_link(client_of(app, "other", scope="read"))

    def described(token: str, headers: dict[str, str] = OWN) -> tuple[int, str]:
        answer = browser.post("/session/links/describe", json={"token": token}, headers=headers)
        return answer.status_code, answer.json().get("project") or answer.json()["error"]["code"]

    assert described(token, {"origin": "https://elsewhere.example"}) == (403, "foreign_origin")
    assert described(token) == described(token) == (200, "other")
    assert browser.get("/session").status_code == 401
    assert spend(browser, token) == (200, "other")
    assert described(token) == (401, "sign_in_link_spent")


def test_a_link_ends_with_the_next_one_with_its_key_and_after_ten_minutes(
    app: FastAPI, browser: TestClient, served: Context
) -> None:
    key, plain = keys.create(served, project="default", name="mine", scope="write")
    client = TestClient(app, headers={"Authorization": f"Bearer {plain}"})
    first, second = a_link(client), a_link(client)
    assert spend(browser, first) == (401, "sign_in_link_spent")
    with served.database.write() as session:
        session.execute(update(SignInLink).values(expires_at=time.time() - 1))
    assert spend(browser, second) == (401, "sign_in_link_spent")
    third = a_link(client)
    with served.database.read() as session:
        assert third not in str(session.scalars(select(SignInLink.sha256)).one())
    keys.revoke(served, key.id)
    assert spend(browser, third) == (401, "sign_in_link_spent")


def test_a_session_creates_no_link_for_another(browser: TestClient, served: Context) -> None:
    sign_in(browser, served)
    assert browser.post("/session/links", headers=OWN).status_code == 403
    _, plain = keys.create(served, project="default", name="mine", scope="write")
    headers = {"Authorization": f"Bearer {plain}", "Idempotency-Key": "a"}
    assert browser.post("/session/links", headers=headers).json()["error"]["code"] == "idempotency_key_not_accepted"
