"""The HTTP application on a real socket, in a thread of the test's process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.app import create_app
from orchestrator.settings import Settings
from tests.seeds import WordEmbedder
from tests.stack import free_port
from tests.waiting import until


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Its base URL while it serves."""
    port = free_port()
    app = create_app(settings, load_embedder=WordEmbedder)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server does not end"
