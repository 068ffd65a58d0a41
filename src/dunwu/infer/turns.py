"""Threads that use one GPU take turns: while one records a graph, whatever another asks of the GPU spoils the recording."""

import contextlib
import threading
from contextlib import AbstractContextManager

import torch


class Turns:
    """A lock that goes to who has waited longest, so that no engine starves another. Not for one that has it already."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = self._serving = 0

    def __enter__(self) -> None:
        with self._changed:
            own = self._next
            self._next += 1
            self._changed.wait_for(lambda: self._serving == own)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()


_ON_GPU = Turns()


def turn_on(device: torch.device) -> AbstractContextManager[None]:
    """What to hold while a model there is asked: processors need nothing."""
    return _ON_GPU if device.type == "cuda" else contextlib.nullcontext()
