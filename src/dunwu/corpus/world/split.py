"""Which combinations of facts are kept for the exam: decided by a hash of the seed and the facts, never by language or wording."""

import hashlib

LARGEST_START = 30  # sums begin with at most so many things
LARGEST_TAKEN = 9

HELD_OUT_SHARE = {"recall": 0.3, "ownership": 0.3, "fits": 0.2, "premise": 0.3, "form": 0.2}


def fraction(seed: int, *key: str | int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *key))).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def held_out(seed: int, kind: str, *combination: str | int) -> bool:
    """Whether the exam alone may ask for this combination of facts."""
    return fraction(seed, "held out", kind, *combination) < HELD_OUT_SHARE[kind]


def held_out_sum(seed: int, start: int, taken: int) -> bool:
    """Whether `start` less `taken` belongs to the exam.

    A worked sum counts 1, 2, … things away and so passes through (start, 1), (start, 2), …: a pair counts as unseen only if
    no training sum runs through it. Hence each start keeps its largest numbers taken for the exam: none, one or two.
    """
    kept_back = int(fraction(seed, "held out", "left", start) * 3)
    return start >= 6 and taken > largest_taken(start) - kept_back


def largest_taken(start: int) -> int:
    """At least two things are left over, so that they can be named in the plural."""
    return min(start - 2, LARGEST_TAKEN)
