"""Every answer that was paid for, on disk before anything is made of it. See `core/journal.py`."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from dunwu.core import journal
from dunwu.core.journal import head_of, require_same

__all__ = ["Given", "Journal", "head_of", "opened", "require_same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An answer. `request`: the hash of what was asked, of whom, and how; `seconds`: how long it took."""

    request: str
    step: str
    text: str
    reason: str
    prompt_tokens: int
    completion_tokens: int
    cost: float
    model: str
    seconds: float


Journal = journal.Journal[Given]


@contextlib.contextmanager
def opened(path: Path) -> Generator[Journal]:
    """The journal of answers at `path`; see `core.journal.opened`."""
    with journal.opened(path, Given) as answers:
        yield answers
