"""How long to wait: for the next unit of a minute's rate, and between two tries."""

import asyncio
import random

MAX_WAIT_S = 60.0  # the longest wait of our own choosing between two tries


class RateLimiter:
    """Spaces out so many units per minute: without a burst, so that no window holds more."""

    def __init__(self, per_minute: float | None) -> None:
        self._unit_s = 60.0 / per_minute if per_minute else 0.0
        self._free_at_s = 0.0

    async def take(self, amount: float = 1.0) -> None:
        """Waits for the turn of `amount` units."""
        if self._unit_s:
            now_s = asyncio.get_running_loop().time()
            start_s = max(now_s, self._free_at_s)
            self._free_at_s = start_s + amount * self._unit_s
            await asyncio.sleep(start_s - now_s)

    def give_back(self, amount: float) -> None:
        """Corrects a `take` that was larger (or, below zero, smaller) than what was used."""
        self._free_at_s -= amount * self._unit_s


def wait_s(attempt: int, first_wait_s: float, asked_s: float | None) -> float:
    """Full jitter over a span that doubles, after what the server asked for."""
    return (asked_s or 0.0) + random.random() * min(MAX_WAIT_S, first_wait_s * 2.0 ** (attempt - 1))
