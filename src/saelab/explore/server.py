"""The explorer as a server on this machine: one socket, one secret, an end that is clean.

The socket is bound before anything is read, so that a port in use is a sentence and port 0 is known. Must never know
what is served.
"""

import logging
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from saelab.core.errors import UserError
from saelab.explore.security import Guard, new_token

WILDCARDS = ("0.0.0.0", "::", "")


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
            hint="Another server of saelab may be running: take --port 0, which finds a free one.",
        ) from error
    return found


def answers_to(host: str, port: int) -> Callable[[str], bool]:
    """What a Host header may say to a server at `host`.

    A local one is reached by loopback names at any port: a tunnel has a port of its own. One at all addresses is
    reached by those, by any address written as numbers (no name can be turned on it), and by this machine's own name.
    """
    everywhere, own = host in WILDCARDS, {socket.gethostname().lower(), socket.getfqdn().lower()}

    def known(asked: str) -> bool:
        name, at = _parted(asked)
        if is_local(name):
            return everywhere or is_local(host)
        if everywhere:
            return _address(name) is not None or (name in own and at == str(port))
        return name == host.lower() and at == str(port)

    return known


def _parted(asked: str) -> tuple[str, str]:
    """Name and port of a Host header; a port that is not said is that of HTTP."""
    name, colon, at = asked.rpartition(":")
    if not colon or asked.endswith("]"):
        name, at = asked, "80"
    inside = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    return (inside, at) if at.isascii() and at.isdigit() else ("", "")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def is_local(host: str) -> bool:
    """Whether a host is this machine alone."""
    found = _address(host)
    return host == "localhost" or (found is not None and found.is_loopback)


def reached_at(host: str) -> str:
    """What others open: of a wildcard address the one of this machine that packets leave from; none is sent."""
    if host not in WILDCARDS:
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address of documentation (RFC 5737)
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


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
        self.address = f"http://{reached_at(host)}:{port}/?token={token}"
        self._socket, self._told = bound_socket, told
        guarded = Guard(app, known=answers_to(host, port), token=token, port=port)
        config = uvicorn.Config(
            guarded, log_level="warning", access_log=False, lifespan="off", server_header=False, date_header=False,
            timeout_graceful_shutdown=3, proxy_headers=False,
        )  # fmt: skip
        self.server = _Server(config, ending)
        logging.getLogger("uvicorn.error").addFilter(_quiet)

    def run(self, *, browser: bool) -> None:
        """Serve until Ctrl-C or a termination; returns then."""
        threading.Thread(target=self._announce, args=(browser,), daemon=True).start()
        with suppress(KeyboardInterrupt):  # one before the server takes signals ends it the same way
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
