"""The process that `stub:NAME?child=1` runs in: the machinery around vLLM, without vLLM."""

from workers.engines import lifeline

lifeline.tie()

import asyncio  # noqa: E402  nothing may be imported before the process is tied to its parent
import sys  # noqa: E402

from workers.engines import host, wire  # noqa: E402
from workers.engines.engine import Engine  # noqa: E402
from workers.engines.stub import StubEngine  # noqa: E402


async def _open(start: wire.Start) -> Engine:
    return StubEngine(start.model)


if __name__ == "__main__":
    sys.exit(asyncio.run(host.serve(host.Pipes(), _open)))
