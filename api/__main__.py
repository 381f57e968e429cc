"""`python -m api`: serve HTTP until told to stop."""

import sys

import uvicorn

from api.app import create_app
from orchestrator import logs
from orchestrator.settings import Settings

DRAIN_S = 10
"""What open answers get to end in at shutdown."""
KEEP_ALIVE_S = 75
"""Longer than the 60 s that load balancers keep idle connections: they, not we, should close first."""


def main() -> int:
    settings = Settings()
    logs.configure(settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
