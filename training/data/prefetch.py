"""Work on data while the model is busy with what came before."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextlib.contextmanager
def prefetched(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[Iterator[Made]]:
    """What `make` makes of each item, in order, the next while the last one is used.

        with prefetched(batches, load) as ahead:
            for batch in ahead: ...

    One item is ahead, so at most two of what was made are in memory. Items are drawn in the
    caller's thread; one thread makes them one after the other. What `make` raises is raised where
    its item is due. The thread ends with the `with`, also when the body raises; a `make` that is
    under way then is waited for.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
        futures = (thread.submit(make, item) for item in items)
        begun = list(itertools.islice(futures, 1))
        after_the_last = Future[Made]()
        coming = itertools.pairwise(itertools.chain(begun, futures, [after_the_last]))
        yield (due.result() for due, _ in coming)
