"""The explorer as a server on this machine: one socket, one secret, an end that is clean.

The socket is bound before anything is read, so that a port in use is a sentence and port 0 is known. Must never know
what is served.
"""

import logging
import socket
import threading
import webbrowser
from collections.abc import Callable
from ipaddress import ip_address
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from saelab.core.errors import UserError
from saelab.explore.security import Guard, new_token

LOCAL = ("127.0.0.1", "localhost", "[::1]")


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `UserError` where the port is taken or the host is none of this machine's."""
    if not 0 <= port <= 65535:
        raise UserError(f"There is no port {port}.", hint="Ports are 0 to 65535; 0 takes any that is free.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        found = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"This machine has no address {host}: {error.strerror or error}.") from error
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        raise UserError(
            f"Nothing can be served at {host}:{port}: {error.strerror or error}.",
            hint="Another explorer may be running: take --port 0, which finds a free one.",
        ) from error
    return found


def hosts_of(host: str, port: int) -> frozenset[str]:
    """What a Host header may say. A wildcard address is reached by this machine's own names and addresses."""
    names = {host}
    if is_local(host):
        names |= set(LOCAL)
    elif host in ("0.0.0.0", "::", ""):
        own = socket.gethostname()
        names = {*LOCAL, own.lower(), socket.getfqdn().lower()}
        names |= {str(info[4][0]) for info in _own_addresses(own)}
    return frozenset(f"[{n}]:{port}" if ":" in n and not n.startswith("[") else f"{n}:{port}" for n in names)


def _own_addresses(name: str) -> list[tuple[object, object, object, object, tuple[object, ...]]]:
    try:
        return list(socket.getaddrinfo(name, None))
    except OSError:
        return []


def is_local(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Served:
    """An application behind its guard on a bound socket.

    address: what is opened first; it holds the token. told: called with it once pages are answered. ending: called when
    the end is asked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        bound_socket: socket.socket,
        host: str,
        *,
        told: Callable[[str], None],
        ending: Callable[[], None],
    ):
        port = bound_socket.getsockname()[1]
        token = new_token()
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{port}/?token={token}"
        self._socket, self._told = bound_socket, told
        guarded = Guard(app, hosts=hosts_of(host, port), token=token, port=port)
        config = uvicorn.Config(
            guarded, log_level="warning", access_log=False, lifespan="off", server_header=False, date_header=False,
            timeout_graceful_shutdown=5, proxy_headers=False,
        )  # fmt: skip
        self.server = _Server(config, ending)
        logging.getLogger("uvicorn.error").addFilter(_quiet)

    def run(self, *, browser: bool) -> None:
        """Serve until Ctrl-C or a termination; returns then."""
        threading.Thread(target=self._announce, args=(browser,), daemon=True).start()
        self.server.run(sockets=[self._socket])

    def _announce(self, browser: bool) -> None:
        self.server.up.wait()
        self._told(self.address)
        if browser:
            webbrowser.open(self.address)


class _Server(uvicorn.Server):
    """Says when it answers, and ends by its signals without raising them again."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]):
        super().__init__(config)
        self.ending = ending
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ending()
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # an end that was asked for is no failure


def _quiet(record: logging.LogRecord) -> bool:
    """Answers that are cut off by the end are no errors."""
    return record.levelno < logging.ERROR or "timeout graceful shutdown" not in record.getMessage()
