"""A function over a stream of tasks, in several processes, results in the order of the tasks, few of them in memory."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from dunwu.core.errors import BuildError

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 2  # tasks waiting for each worker

_shared: Any = None


def _start(shared: Any) -> None:
    """In a new worker: keep what all tasks share; an interrupt is the parent's business."""
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _call(function: Callable[[T, Any], R], task: T) -> R:
    return function(task, _shared)


def ordered_map(function: Callable[[T, Any], R], tasks: Iterator[T], shared: Any, workers: int) -> Iterator[R]:
    """`function(task, shared)` for each task, in order. With one worker, in this process.

    Raises BuildError when a worker dies. Workers are fresh interpreters: torch's threads in this process would make a fork unsafe. `function` is a function of
    a module; it, tasks, `shared` and results are pickled between processes of this run, never to a file.
    """
    if workers <= 1:
        for task in tasks:
            yield function(task, shared)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(shared,))
    waiting: deque[Future[R]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_call, function, task))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise BuildError(
            f"one of {workers} worker processes died, most likely for want of memory; run again with corpus.workers=1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
