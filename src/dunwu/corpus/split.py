"""The held-out split: whole documents where there are enough, sections of documents where there are few."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dunwu.corpus.readers.text import cut_point

Unit = Literal["document", "section"]

SECTION_CHARS = 16_000
MIN_SECTION_CHARS = 1_000
MIN_DOCUMENTS = 20  # with fewer, one held-out document would be a large and peculiar part of the corpus
WANTED_UNITS = 10  # for an interval over held-out documents
MAX_OVERSHOOT = 2.2  # held-out bytes may be this many times the fraction asked for, to hold several documents
_HEADING = re.compile(
    r"\n(?=#{1,3} \S|(?:chapter|book|part|act|scene|section)\s+[\divxlc]+\b|第[一二三四五六七八九十百零〇\d]+[章回节卷篇部])",
    re.I,
)


def section_spans(text: str, target: int) -> list[tuple[int, int]]:
    """Cut a text into sections of about `target` characters, at a heading where one is near, else between paragraphs."""
    spans: list[tuple[int, int]] = []
    start = 0
    while len(text) - start > target * 3 // 2:
        low, high = start + target // 2, start + target * 5 // 4
        heading = _last_heading(text, low, high)
        end = heading or cut_point(text, start + target * 3 // 4, high)
        spans.append((start, end))
        start = end
    spans.append((start, len(text)))
    return spans


def _last_heading(text: str, low: int, high: int) -> int | None:
    ends = [match.end() for match in _HEADING.finditer(text, low, high)]
    return ends[-1] if ends else None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which units of one language are held out, and in words why so."""

    unit: Unit
    held: npt.NDArray[np.bool_]
    why: str


def choose_unit(wanted: str, sizes: npt.NDArray[np.int64], fraction: float) -> tuple[Unit, str]:
    """Documents or sections, for documents of these `sizes` (bytes, `[n]`)."""
    if wanted != "auto":
        return ("section" if wanted == "section" else "document"), f"heldout_unit={wanted}"
    if len(sizes) < MIN_DOCUMENTS:
        return "section", f"{len(sizes)} documents are fewer than {MIN_DOCUMENTS}, so sections of them are held out"
    fitting = int((sizes <= fraction * sizes.sum()).sum())
    if fitting < 2:
        return "section", f"nearly every document is more than {fraction:.0%} of the text, so sections are held out"
    return "document", f"{len(sizes)} documents are enough to hold out whole ones"


def hold_out(
    clusters: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], fraction: float, seed: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Choose units to hold out, whole clusters at a time: true where held, `[n]`.

    `clusters`, `[n]`: units with the same number are near-duplicates or parts of one document and stay together.
    Clusters come in an order drawn from the seed; those larger than the share allowed are passed over, until both the
    fraction of bytes and a number of clusters good for an interval are reached; but never more than twice the fraction of
    clusters, which a few huge ones would otherwise cost the small. One cluster at least stays in training.
    """
    names, members = np.unique(clusters, return_inverse=True)
    weights = np.bincount(members, weights=sizes).astype(np.int64)
    total = int(weights.sum())
    wanted = max(1, round(fraction * len(names)), min(WANTED_UNITS, len(names) // 10))
    most_units = max(wanted, round(2 * fraction * len(names)))
    most = max(fraction * MAX_OVERSHOOT * total, float(weights.min(initial=0)))
    chosen = np.zeros(len(names), bool)
    held = 0
    for index in np.random.default_rng([*seed, 0x5EED]).permutation(len(names)):
        if (held >= fraction * total and chosen.sum() >= wanted) or chosen.sum() >= most_units:
            break
        if chosen.sum() < len(names) - 1 and held + weights[index] <= most:
            chosen[index] = True
            held += int(weights[index])
    return chosen[members]
