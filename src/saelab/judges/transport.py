"""The wire to a judge's endpoint: one host, small plain replies, and no key in anything that comes back.

A reply is read up to `MOST` bytes, packed or not, so no endpoint can fill the memory. Redirects are not followed: the
answers would be another judge's. Where the endpoint sends the key back (some echo the request's headers in an error),
it is blotted out before anything reads, keeps or shows it. Knows neither models nor questions.
"""

import logging
import os
import re
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from saelab.core.errors import MissingDependency, UserError

MOST = 1 << 20  # bytes of a reply; one of a thousand words takes eight thousand
SHORTEST_SECRET = 8  # "none" and "test" are no secrets, and words of replies
NO_KEY = "none"  # local servers ask for none, but the library insists on one
BLOT = b"[key]"


class Unreadable(Exception):
    """A reply that will not be read: too large, or packed in a way that nobody asked for."""


def key_of(variable: str, given: str | None = None) -> str:
    """The API key that is given, else the one in an environment variable, without blanks around it; "" for none.

    A `UserError` where it cannot be sent as it is: the message does not show it.
    """
    key = (given or os.environ.get(variable, "")).strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"The API key in {variable} holds blanks, line ends or characters outside ASCII, so it cannot be sent.",
            hint=f"Set {variable} to the key alone.",
        )
    return key


def check_url(url: str) -> str:
    """The address of an endpoint without its last slash; ValueError, which does not show it, where it is none."""
    bare = url.strip().rstrip("/")
    try:
        parts, port = urlsplit(bare), urlsplit(bare).port
    except ValueError:
        raise ValueError("it is not an address") from None
    if "@" in parts.netloc:
        raise ValueError("it holds a user name or password; give the key in the environment (key_variable)")
    if parts.query or parts.fragment or "?" in bare or "#" in bare:
        raise ValueError("it holds a query (?...), which may be a key; write the address alone")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("it is not an address such as https://host/v1")
    if re.search(r"\s", bare) or not bare.isprintable():
        raise ValueError("it holds blanks")
    return bare


def client_of(base_url: str, key: str, deadline: float) -> Any:
    """The openai library's client over this wire; it repeats nothing by itself."""
    try:
        import openai
    except ImportError:
        raise MissingDependency("This judge needs the openai library.", hint="pip install 'saelab[judge]'") from None

    class Wire(openai.DefaultAsyncHttpxClient):
        """Replies come whole, plain, small and without the key."""

        async def send(self, request: Any, **settings: Any) -> Any:
            request.headers["accept-encoding"] = "identity"
            response = await super().send(request, **{**settings, "stream": True, "follow_redirects": False})
            try:
                body = await _body(response)
            except Unreadable:
                if response.status_code < 400:
                    raise
                body = b""  # a failure is known by its status
            finally:
                await response.aclose()
            kept = {k: response.headers[k] for k in ("retry-after", "location") if k in response.headers}
            kept["content-type"] = "application/json; charset=utf-8"
            if len(key) >= SHORTEST_SECRET:
                body = body.replace(key.encode(), BLOT)
            return type(response)(response.status_code, headers=kept, content=body, request=request)

    for name in ("httpcore", "httpcore2"):  # at DEBUG it logs the reply's headers, which may repeat the request's
        logging.getLogger(name).setLevel(logging.INFO)
    wire = Wire(follow_redirects=False, timeout=deadline)
    return openai.AsyncOpenAI(
        api_key=key or NO_KEY, base_url=base_url, max_retries=0, timeout=deadline, http_client=wire
    )


def retry_after(value: str | None, *, most: float = 120.0) -> float | None:
    """Seconds that a Retry-After header asks for (a number or an HTTP date), at most `most`; None if unreadable."""
    seconds = None
    with suppress(TypeError, ValueError, OverflowError):
        seconds = float(value or "")
    if seconds is None:
        with suppress(TypeError, ValueError, OverflowError):
            when = parsedate_to_datetime(value or "")
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    return None if seconds is None or seconds != seconds else min(most, max(0.0, seconds))


async def _body(response: Any) -> bytes:
    """The reply as it is once unpacked, in at most `MOST` bytes of either form."""
    raw = bytearray()
    async for chunk in response.aiter_raw(1 << 16):
        raw += chunk
        if len(raw) > MOST:
            raise Unreadable(f"the reply is larger than {MOST >> 20} MiB")
    packing = response.headers.get("content-encoding", "").strip().lower()
    if packing in ("", "identity"):
        return bytes(raw)
    if packing not in ("gzip", "x-gzip", "deflate"):
        raise Unreadable(f"the reply is packed as {packing[:20]!r}")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        body = unpacker.decompress(bytes(raw), MOST + 1)
    except zlib.error:
        raise Unreadable("the reply is not the gzip that it says it is") from None
    if len(body) > MOST:
        raise Unreadable(f"the reply is larger than {MOST >> 20} MiB")
    if not unpacker.eof:
        raise Unreadable("the reply is a gzip cut short")
    return body
