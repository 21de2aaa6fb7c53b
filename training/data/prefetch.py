"""Work on data while the model is busy with what came before."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Prefetcher(Generic[Item, Made]):
    """What `make` makes of each item, in order, the next while the last one is used.

        with Prefetcher(batches, load) as ahead:
            for batch in ahead: ...

    One item is ahead, so at most two of what was made are in memory. Items are drawn in the
    caller's thread; one thread makes them one after the other. What `make` raises is raised where
    its item is due. The thread ends with the `with`, also when the body raises; a `make` that is
    under way then is waited for.
    """

    def __init__(self, items: Iterable[Item], make: Callable[[Item], Made]) -> None:
        self._items, self._make = iter(items), make
        self._coming: deque[Future[Made]] = deque()

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Made:
        if not self._coming:
            raise StopIteration
        self._begin()
        return self._coming.popleft().result()

    def _begin(self) -> None:
        for item in self._items:
            self._coming.append(self._thread.submit(self._make, item))
            return
