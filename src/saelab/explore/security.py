"""Who may ask: somebody who was given the address, from this server's own pages, under this server's own name.

Three checks stand before every route. Host: another name that resolves to this machine (DNS rebinding) is refused.
Origin and Sec-Fetch-Site: a page of another site is refused, whatever it holds. Token: the first address carries it,
a cookie keeps it (HttpOnly, SameSite=Strict), and the address is then clean, so that links stay the same. The policy of
every answer lets only this server's own files load, and no inline script run. Must never know what is served.
"""

import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LARGEST = 1 << 20  # bytes of a request
SAFE = ("GET", "HEAD")


def new_token() -> str:
    """A secret for one start of the server."""
    return secrets.token_urlsafe(24)


class Guard:
    """The checks, around an application.

    known: whether a Host header names this server. token: what the first address carries. The cookie is called by the
    port, since browsers keep one jar for all ports of a machine.
    """

    def __init__(self, app: ASGIApp, *, known: Callable[[str], bool], token: str, port: int):
        self.app, self.known, self.token, self.cookie = app, known, token, f"saelab-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        answer = self._refused(scope, Headers(scope=scope)) or self._entered(scope)
        if answer is not None:
            await answer(scope, receive, _with_headers(send))
            return
        await self.app(scope, receive, _with_headers(send))

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        """Why a request is refused; None where it is not."""
        host = headers.get("host", "").lower()
        if not self.known(host):
            return PlainTextResponse("saelab: this server does not answer to that name.", 421)
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{h}" for h in (host,)}:
            return PlainTextResponse("saelab: requests of other sites are refused.", 403)
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not _visits(scope, headers):
            return PlainTextResponse("saelab: requests of other sites are refused.", 403)
        if scope["method"] not in (*SAFE, "POST"):
            return PlainTextResponse("saelab: there is no such request.", 405)
        if scope["method"] == "POST":
            length = headers.get("content-length", "")
            if headers.get("content-type", "").partition(";")[0] != "application/json":
                return PlainTextResponse("saelab: a request is JSON.", 415)
            if not length.isdigit() or int(length) > LARGEST:
                return PlainTextResponse("saelab: the request is too large.", 413)
        if not self._knows(headers) and not self._carries(scope):
            said = "saelab: open the address that saelab printed; it holds the key to these pages."
            return PlainTextResponse(said, 403)
        return None

    def _knows(self, headers: Headers) -> bool:
        jar = SimpleCookie()
        try:
            jar.load(headers.get("cookie", ""))
        except CookieError:
            return False
        kept = jar.get(self.cookie)
        return kept is not None and secrets.compare_digest(kept.value.encode(), self.token.encode())

    def _carries(self, scope: Scope) -> bool:
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", "")
        return scope["method"] in SAFE and secrets.compare_digest(given.encode(), self.token.encode())

    def _entered(self, scope: Scope) -> Response | None:
        """A first visit: keep the token as a cookie, and go to the address without it."""
        if not self._carries(scope):
            return None
        rest = [p for p in parse_qsl(scope["query_string"].decode("latin-1")) if p[0] != "token"]
        # One slash at the start: an address that begins with two is another host's.
        clean = "/" + scope["path"].lstrip("/") + (f"?{urlencode(rest)}" if rest else "")
        answer = RedirectResponse(clean, 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        return answer


def _visits(scope: Scope, headers: Headers) -> bool:
    """Whether somebody follows a link to a page, which shows nothing to the page that it was on."""
    return (
        scope["method"] in SAFE
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest", "document") == "document"
    )


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
