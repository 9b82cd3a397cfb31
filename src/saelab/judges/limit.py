"""How many calls may be in flight: grows while they succeed, halves when the endpoint says 429 (AIMD, as TCP does).

A Retry-After holds all new calls back until it has passed. Knows no HTTP.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class AdaptiveLimit:
    """At most `limit` slots at a time, between 1 and `most`; belongs to one event loop."""

    def __init__(self, start: int, most: int):
        self.limit = float(min(start, most))
        self._most = most
        self._running = 0
        self._resume = 0.0
        self._change = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and for the end of any pause."""
        async with self._change:
            await self._change.wait_for(lambda: self._running < int(self.limit))
            self._running += 1
        try:
            # no longer under the lock: others may finish while this one waits out the pause
            while (wait := self._resume - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            yield
        finally:
            async with self._change:
                self._running -= 1
                self._change.notify_all()

    def succeeded(self) -> None:
        """One more call went well: one more slot for each full round of them."""
        self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def limited(self, pause: float) -> None:
        """The endpoint is overloaded: half the slots, and no new call for `pause` seconds."""
        now = time.monotonic()
        if now >= self._resume:  # calls refused together count once
            self.limit = max(1.0, self.limit / 2)
        self._resume = max(self._resume, now + pause)


def retry_after(value: str | None, *, most: float = 120.0) -> float | None:
    """Seconds that a Retry-After header asks for (a number or an HTTP date), at most `most`; None if unreadable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    return min(most, max(0.0, seconds))
