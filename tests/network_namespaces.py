"""Network namespaces that stand for machines of their own: each sees the broker across a link, and nothing else."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

NETWORK = "10.231"
"""Addresses of the links: one /30 each."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How to run a command there, and the broker's URL as seen from there."""

    prefix: tuple[str, ...]
    broker_url: str


def are_permitted() -> bool:
    """Whether this process may make them: it takes the rights of an administrator."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"muster-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    return subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def machines(count: int, broker_url: str) -> Iterator[list[Machine]]:
    """So many namespaces, each with a link of its own to the broker; gone at the end."""
    head, _, tail = broker_url.partition("127.0.0.1:")
    port, _, rest = tail.partition("/")
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(1, count + 1):
            prefix = stack.enter_context(_namespace(number))
            own = stack.enter_context(_forwarded(f"{NETWORK}.{number}.1", int(port)))
            made.append(Machine(prefix=prefix, broker_url=f"{head}{NETWORK}.{number}.1:{own}/{rest}"))
        yield made


@contextlib.contextmanager
def _namespace(number: int) -> Iterator[tuple[str, ...]]:
    name, link = f"muster-{os.getpid()}-{number}", f"mst{os.getpid() % 100_000}x{number}"
    inside = ("ip", "netns", "exec", name)
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "address", "add", f"{NETWORK}.{number}.1/30", "dev", link)
        _run("ip", "link", "set", link, "up")
        _run(*inside, "ip", "address", "add", f"{NETWORK}.{number}.2/30", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "eth0", "up")
        _run(*inside, "ip", "link", "set", "lo", "up")
        yield inside
    finally:
        _run("ip", "netns", "delete", name)


@contextlib.contextmanager
def _forwarded(address: str, port: int) -> Iterator[int]:
    """A port on the link's address that leads to the broker, which listens on the loopback address only."""
    listener = socket.create_server((address, 0))
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def begin(work: Callable[..., None], *arguments: socket.socket) -> None:
        threads.append(threading.Thread(target=work, args=arguments))
        threads[-1].start()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                opened.extend((near, far))
                begin(_pump, near, far)
                begin(_pump, far, near)

    begin(accept)
    try:
        yield int(listener.getsockname()[1])
    finally:
        _shut(listener, *opened)
        for thread in threads:
            thread.join()
        for each in (listener, *opened):
            each.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _shut(source, sink)


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def where(count: int, broker_url: str) -> "contextlib.AbstractContextManager[Sequence[Machine]]":
    """Namespaces if they are permitted, else so many times this machine itself."""
    if are_permitted():
        return machines(count, broker_url)
    return contextlib.nullcontext([Machine(prefix=(), broker_url=broker_url)] * count)
