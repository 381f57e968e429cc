"""A TCP proxy to cut: between two processes, the network that fails."""

import contextlib
import select
import socket
import threading
from typing import Self

BLOCK_BYTES = 1 << 16


class Proxy:
    """Forwards 127.0.0.1:`port` to a port there, until it is `cut`. Use as a context manager."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: set[socket.socket] = set()
        self._is_open = threading.Event()
        self._is_open.set()
        self._ends = False
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._is_open.set()
        self._drop(self._listener)
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Nothing gets through any more, in either direction, and nobody is told: the cable is out."""
        self._is_open.clear()

    def heal(self) -> None:
        """What waited gets through, late."""
        self._is_open.set()

    def hang_up(self) -> None:
        """Break every connection there is; new ones are accepted."""
        for each in list(self._sockets):
            self._drop(each)

    def _accept(self) -> None:
        while not self._ends:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._forward, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket) -> None:
        self._sockets.add(client)
        self._is_open.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:
            self._drop(client)
            return
        self._sockets.add(server)
        ends = {client: server, server: client}
        try:
            while True:
                for source in select.select(list(ends), [], [])[0]:
                    self._is_open.wait()
                    block = source.recv(BLOCK_BYTES)
                    if not block:
                        return
                    ends[source].sendall(block)
        except (OSError, ValueError):
            return
        finally:
            self._drop(client)
            self._drop(server)

    def _drop(self, each: socket.socket) -> None:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
        self._sockets.discard(each)
