"""`python -m workers --name NAME --device cpu|cuda:0|none`: one worker process."""

import fcntl
import logging
import sys
import warnings
from pathlib import Path
from typing import IO

import celery.platforms

from workers import celery_app, device, settings
from workers.engines import leftovers

EXIT_NAME_TAKEN = 75


def main(argv: list[str]) -> int:
    given = settings.from_command_line(argv)
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s %(levelname)s {given.name} %(name)s: %(message)s", stream=sys.stderr
    )
    for noisy in ("celery.worker.strategy", "celery.app.trace", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Containers run as root; only JSON is accepted, which is what the warning is about.
    warnings.filterwarnings("ignore", category=celery.platforms.SecurityWarning)
    if (why := device.lost(given.device)) is not None:
        logging.error("%s; mend it, or give this worker another --device", why)
        return celery_app.EXIT_DEVICE_LOST
    lock = _lock(given.data_dir / "workers" / f"{given.name}.lock")
    if lock is None:
        logging.error("a worker named %s already runs on this machine: give this one another --name", given.name)
        return EXIT_NAME_TAKEN
    with lock:
        leftovers.reap(given.data_dir, given.name)
        return celery_app.run(given)


def _lock(path: Path) -> IO[str] | None:
    """An open file locked for the life of the process, or None if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
