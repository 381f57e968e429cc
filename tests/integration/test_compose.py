"""docker-compose.yml, without Docker: every service's own command, with the environment the file gives it, as a plain
process against a real PostgreSQL and a real Valkey, until the file's own health check passes.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from orchestrator.local import child, embedded
from orchestrator.settings import PROJECT_DIR
from tests.stack import STUB_EXPERTS, WEIGHTS, free_port
from tests.waiting import until

SECRETS = {"POSTGRES_PASSWORD": "of-postgres", "VALKEY_PASSWORD": "of-valkey", "MUSTER_DEVICE": "cpu"}
OWN = ("orchestrator", "worker", "remote-worker", "api")
HEALTHY_S = 60.0


FILE = (PROJECT_DIR / "docker-compose.yml").read_text()


def read(variables: Mapping[str, str], text: str = FILE) -> dict[str, Any]:
    """The compose file with its variables filled in, the innermost first, as `docker compose config` does it."""
    before = ""
    while text != before:
        before, text = text, re.sub(r"(?<!\$)\$\{([^{}]*)\}", lambda m: filled(m, variables), text)
    composed: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))
    return composed


def filled(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, operator, rest = (re.match(r"(\w+)(:-|:\?)?(.*)", found[1]) or pytest.fail(found[0])).groups()
    if variables.get(name):
        return variables[name]
    if operator == ":?":
        raise KeyError(f"{name}: {rest}")
    return rest if operator else ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the services' hosts and folders are on this machine."""

    postgres_port: int
    valkey_port: int
    api_port: int
    folder: Path

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """What the file gives a service, hosts and folders put in place; and of this machine's, only what any has."""
        mapping = {
            "@postgres:5432": f"@127.0.0.1:{self.postgres_port}",
            "@valkey:6379": f"@127.0.0.1:{self.valkey_port}",
            "0.0.0.0": "127.0.0.1",
            "/data": str(self.folder / "data"),
            "/config/experts.toml": str(STUB_EXPERTS),
        }
        given = {name: str(value) for name, value in service.get("environment", {}).items()}
        for name, value in given.items():
            for there, here in mapping.items():
                value = value.replace(there, here)
            given[name] = value
        if "MUSTER_PORT" in given:
            given["MUSTER_PORT"] = str(self.api_port)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {"PATH": path, "PYTHONPATH": str(PROJECT_DIR), "HOSTNAME": "c0ffee", "HOME": str(self.folder), **given}


def is_healthy(service: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    kind, *test = service["healthcheck"]["test"]
    command = test if kind == "CMD" else ["sh", "-c", *test]
    return subprocess.run(command, env=dict(environment), capture_output=True, check=False).returncode == 0


@contextmanager
def started(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = child.spawn(command, env=environment, cwd=log.parent, output=file)
    try:
        yield process
    finally:
        child.stop(process, signal.SIGTERM)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    data = tmp_path / "data"
    data.mkdir()
    if WEIGHTS.exists():
        (data / "pkgs").symlink_to(WEIGHTS)
    return Place(postgres_port=free_port(), valkey_port=free_port(), api_port=free_port(), folder=tmp_path)


@contextmanager
def valkey_of_the_file(service: Mapping[str, Any], place: Place) -> Iterator[None]:
    """Its own command, with our binary for the image's, and a port and a folder of this machine."""
    binaries = place.folder / "bin"
    binaries.mkdir()
    binary = embedded.valkey_binary()
    extra = f"--port {place.valkey_port} --bind 127.0.0.1 --dir {place.folder}"
    (binaries / "valkey-server").write_text(f'#!/bin/sh\nexec {binary} "$@" {extra}\n')
    (binaries / "valkey-server").chmod(0o755)
    environment = place.environment(service)
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    with started(service["command"], environment, place.folder / "valkey.log"):
        with redis.Redis(port=place.valkey_port, password=SECRETS["VALKEY_PASSWORD"]) as client:
            until(lambda: answers(client))
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            assert client.config_get("appendonly")["appendonly"] == "yes"
        yield


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


@contextmanager
def postgres_of_the_file(service: Mapping[str, Any], place: Place) -> Iterator[None]:
    """Its own options and password. (Its image makes user and database from POSTGRES_USER and POSTGRES_DB.)"""
    assert service["command"][0] == "postgres"
    environment = service["environment"]
    assert (environment["POSTGRES_USER"], environment["POSTGRES_DB"]) == ("muster", "muster")
    server = embedded.EmbeddedPostgres(
        place.folder / "postgres",
        tcp_port=place.postgres_port,
        password=environment["POSTGRES_PASSWORD"],
        options=service["command"][1:],
    )
    try:
        server.start()
        yield
    finally:
        server.stop()


@contextmanager
def healthy(name: str, service: Mapping[str, Any], place: Place) -> Iterator[None]:
    """The service, from its first good health check to the end of the block."""
    environment, log = place.environment(service), place.folder / f"{name}.log"
    with started([str(part) for part in service["command"]], environment, log) as process:

        def has_come_up() -> bool:
            assert process.poll() is None, f"{name} ended: {log.read_text()[-3000:]}"
            return is_healthy(service, environment)

        until(has_come_up, timeout_s=HEALTHY_S)
        yield


def test_every_service_starts_by_its_own_command_and_becomes_healthy(place: Place) -> None:
    services = read(SECRETS)["services"]
    with ExitStack() as cleanup:
        cleanup.enter_context(postgres_of_the_file(services["postgres"], place))
        cleanup.enter_context(valkey_of_the_file(services["valkey"], place))
        for name in OWN:
            cleanup.enter_context(healthy(name, services[name], place))


def test_the_file_has_what_production_needs() -> None:
    composed = read(SECRETS)
    services = composed["services"]
    assert set(services) == {*OWN, "valkey", "postgres"}
    assert all("healthcheck" in service and service["restart"] == "unless-stopped" for service in services.values())
    [gpu] = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu["capabilities"] == ["gpu"]
    assert "container_name" not in services["worker"], "a fixed name cannot be scaled"
    volumes = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert volumes == {*composed["volumes"], "."}


def test_what_is_in_the_env_file_reaches_every_process_of_ours() -> None:
    services = read(SECRETS)["services"]
    assert all(services[name]["env_file"] == [{"path": ".env", "required": False}] for name in OWN)
    for name in OWN:  # what stands here as well would hide it
        written = {variable for variable in services[name]["environment"] if variable.startswith("MUSTER_")}
        assert written <= {
            "MUSTER_DATA_DIR",
            "MUSTER_EXPERTS_FILE",
            "MUSTER_HOST",
            "MUSTER_PORT",
            "MUSTER_API_KEY",
            "MUSTER_DEVICE",
            "MUSTER_WORKER_ARGS",
        }


def test_experts_and_models_are_the_hosts_own() -> None:
    services = read(SECRETS | {"MUSTER_EXPERTS_DIR": "/etc/muster", "MUSTER_MODELS_DIR": "/srv/models"})["services"]
    assert "/etc/muster:/config:ro" in services["orchestrator"]["volumes"]
    assert services["orchestrator"]["environment"]["MUSTER_EXPERTS_FILE"] == "/config/experts.toml"
    assert "/srv/models:/models:ro" in services["worker"]["volumes"]


def test_servers_of_ones_own_take_the_place_of_the_files() -> None:
    theirs = {"DATABASE_URL": "postgresql://db.example/muster", "REDIS_URL": "redis://broker.example:6379/0"}
    services = read(SECRETS | theirs)["services"]
    for name in OWN:
        environment = services[name]["environment"]
        assert {key: environment[key] for key in theirs if key in environment}.items() <= theirs.items()
        assert environment["REDIS_URL"] == theirs["REDIS_URL"]


def test_a_second_gpu_is_a_service_that_only_has_to_be_uncommented() -> None:
    services = read(SECRETS, re.sub(r"^  # (worker-1:|  )", r"  \1", FILE, flags=re.MULTILINE))["services"]
    first, second = services["worker"], services["worker-1"]
    devices = [each["deploy"]["resources"]["reservations"]["devices"][0] for each in (first, second)]
    assert [device["device_ids"] for device in devices] == [["0"], ["1"]]
    assert {**second, "deploy": None} == {**first, "deploy": None}


def test_a_worker_takes_further_arguments(place: Place) -> None:
    worker = read(SECRETS | {"MUSTER_WORKER_ARGS": "--residents 0"})["services"]["worker"]
    ran = subprocess.run(worker["command"], env=place.environment(worker), capture_output=True, text=True, check=False)
    assert "argument --residents: 0 is not above 0" in ran.stderr


def test_secrets_stay_out_of_the_image() -> None:
    assert ".env" in (PROJECT_DIR / ".dockerignore").read_text().splitlines()


def test_every_service_waits_for_the_health_of_what_it_needs() -> None:
    services = read(SECRETS)["services"]
    for name in OWN:
        needs = services[name]["depends_on"]
        assert all(
            services[need]["healthcheck"] and how == {"condition": "service_healthy"} for need, how in needs.items()
        )
        used = {host for value in services[name]["environment"].values() for host in re.findall(r"@(\w+):", str(value))}
        assert used <= set(needs)


@pytest.mark.parametrize("missing", ["POSTGRES_PASSWORD", "VALKEY_PASSWORD"])
def test_no_password_has_a_default(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        read({name: value for name, value in SECRETS.items() if name != missing})
