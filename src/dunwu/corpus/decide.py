"""Second pass, on fingerprints alone: which documents are duplicates, and which units are held out."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.core.recipe import CorpusSection
from dunwu.corpus.dedup import SPLIT_MARGIN, Clusters, Signatures, exact_repeats, near_repeats, similar_pairs
from dunwu.corpus.pool import AUTO, HELDOUT, Pool
from dunwu.corpus.split import choose_unit, hold_out

_Places = npt.NDArray[np.int64]

EXACT, NEAR = "duplicate", "near_duplicate"
_LONELY_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class LanguageSplit:
    """How one language was split."""

    unit: str
    why: str
    units: int
    heldout_units: int
    heldout_bytes: int
    bytes: int


@dataclass(slots=True)
class Decision:
    """`dropped`, `[documents]`: 0 kept, 1 exact, 2 near duplicate. `held`, `[sections]`: true where held out."""

    dropped: npt.NDArray[np.uint8]
    held: npt.NDArray[np.bool_]
    languages: dict[str, LanguageSplit] = field(default_factory=dict[str, LanguageSplit])
    fixed_heldout: int = 0
    one_copied_document: bool = False
    all_alike: bool = False  # so much so that units only somewhat alike had to be split

    @property
    def unit(self) -> str:
        """Document or section; of several languages, that of the most bytes."""
        parts = sorted(self.languages.values(), key=lambda part: part.bytes)
        return parts[-1].unit if parts else "document"

    def split_card(self, heldout_rows: int) -> dict[str, Any]:
        """The split as the card tells it."""
        notes = ["Near-duplicates of a held-out unit are never in training: the split is by near-duplicate cluster."]
        if self.all_alike:
            notes = [
                "Nearly all documents are alike: only closest likeness was kept on one side of the split, so held-out"
                " text may have passages in common with training."
            ]
        if self.fixed_heldout:
            notes.append(
                f"{self.fixed_heldout:,} held-out pages of the small world were chosen by the world itself; its text is"
                " generated with known truth, so quality, redaction, deduplication and decontamination pass it by."
            )
        languages = {
            name: {slot: getattr(part, slot) for slot in LanguageSplit.__slots__}
            for name, part in self.languages.items()
        }
        return {"unit": self.unit, "heldout_rows": heldout_rows, "languages": languages, "notes": notes}


def decide(pool: Pool, section: CorpusSection, seed: int) -> Decision:
    """Find duplicates and choose the held-out units of each language."""
    documents = pool.documents
    free = documents["fixed"] == AUTO
    dropped = np.zeros(len(documents), np.uint8)
    if section.dedup != "none":
        dropped[np.flatnonzero(free)[exact_repeats(documents["digest"][free])]] = 1
    lenient = max(0.3, section.near_threshold - SPLIT_MARGIN)
    pairs, likeness = _pairs(pool.document_sketches, free & (dropped == 0), lenient)
    if section.dedup == "near":
        dropped[near_repeats(pairs[likeness >= section.near_threshold], len(documents))] = 2
    alone = int((free & (dropped == 0)).sum()) == 1 and bool(dropped.any()) and not (~free).any()
    decision = Decision(dropped, np.zeros(len(pool.sections), bool))
    decision.one_copied_document = alone and int(documents["bytes"][free & (dropped == 0)].sum()) < _LONELY_BYTES
    _hold_out_fixed(pool, decision)
    near = _Near(pairs, likeness, (lenient, section.near_threshold))
    _hold_out_free(pool, decision, near, section, seed)
    return decision


@dataclass(frozen=True, slots=True)
class _Near:
    """Similar pairs of documents, `[n, 2]` with their similarity, and the thresholds to tell near-duplicates by: the
    lenient one first, and the strict one for a corpus in which nearly everything is alike."""

    pairs: npt.NDArray[np.int64]
    likeness: npt.NDArray[np.float32]
    thresholds: tuple[float, float]


def _pairs(
    sketches: Signatures, eligible: npt.NDArray[np.bool_], threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    found = list(similar_pairs(sketches, eligible, threshold))
    if not found:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    return np.concatenate([part for part, _ in found]), np.concatenate([part for _, part in found])


def _hold_out_fixed(pool: Pool, decision: Decision) -> None:
    chosen = pool.documents["fixed"] == HELDOUT
    decision.fixed_heldout = int(chosen.sum())
    decision.held |= chosen[pool.sections["document"]]


def _document_clusters(pool: Pool, near: _Near, threshold: float, dropped: npt.NDArray[np.uint8]) -> _Places:
    """Cluster of each document: parts of one, and near-duplicates that are both kept, belong together."""
    clusters = Clusters.singles(len(pool.documents))
    pairs = near.pairs[near.likeness >= threshold]
    for left, right in pairs[(dropped[pairs] == 0).all(axis=1)]:
        clusters.join(int(left), int(right))
    groups = pool.documents["group"]
    for place in np.flatnonzero(groups[1:] == groups[:-1]):
        clusters.join(int(place), int(place) + 1)
    return clusters.names()


def _hold_out_free(pool: Pool, decision: Decision, near: _Near, section: CorpusSection, seed: int) -> None:
    """Split each language by itself, so that each is held out in proportion. A cluster has its first document's language.

    Where likeness joins so much that nothing can be held out (forms, templates, editions of one book), the strict
    threshold is taken; then sections of documents that are alike may part.
    """
    lenient, strict = near.thresholds
    for threshold, whole in ((lenient, True), (strict, True), (strict, False)):
        clusters = _document_clusters(pool, near, threshold, decision.dropped)
        _hold_out_clusters(pool, decision, clusters, (threshold, whole), section, seed)
        if any(part.heldout_units for part in decision.languages.values()):
            decision.all_alike = threshold != lenient or not whole
            return


def _hold_out_clusters(
    pool: Pool, decision: Decision, clusters: _Places, likeness: tuple[float, bool], section: CorpusSection, seed: int
) -> None:
    """`likeness`: from which similarity sections belong together, and whether all of documents that are alike do."""
    documents = pool.documents
    threshold, whole = likeness
    kept = (documents["fixed"] == AUTO) & (decision.dropped == 0)
    language_of = documents["language"][clusters]
    for number, name in enumerate(pool.languages):
        chosen = np.flatnonzero(kept & (language_of == number))
        if not len(chosen):
            continue
        names, members = np.unique(clusters[chosen], return_inverse=True)
        sizes = np.bincount(members, weights=documents["bytes"][chosen], minlength=len(names)).astype(np.int64)
        unit, why = choose_unit(section.heldout_unit, sizes, section.heldout_fraction)
        inside = np.zeros(len(documents), bool)
        inside[chosen] = True
        places = np.flatnonzero(inside[pool.sections["document"]])
        if unit == "document":
            keys = clusters[pool.sections["document"][places]]
        else:
            keys = _section_clusters(pool, places, threshold, clusters if whole else None)
        held = hold_out(keys, pool.sections["bytes"][places], section.heldout_fraction, (seed, number))
        decision.held[places[held]] = True
        decision.languages[name] = _language_split(unit, why, keys, held, pool.sections["bytes"][places])


def _section_clusters(pool: Pool, places: _Places, threshold: float, alike: _Places | None) -> _Places:
    """Cluster of each of these sections: near-duplicates belong together.

    `alike`, `[documents]`: where several documents share a cluster, all their sections belong together; the cuts of one
    edition fall elsewhere than those of another, so sections that overlap by half would not be found to be alike.
    """
    eligible = np.zeros(len(pool.sections), bool)
    eligible[places] = True
    clusters = Clusters.singles(len(pool.sections))
    for pairs, _ in similar_pairs(pool.section_sketches, eligible, threshold):
        for left, right in pairs:
            clusters.join(int(left), int(right))
    if alike is not None:
        _join_alike(pool, places, alike, clusters)
    return clusters.names()[places]


def _join_alike(pool: Pool, places: _Places, alike: _Places, clusters: Clusters) -> None:
    """Make one cluster of the sections of documents that are alike; parts of one document alone are not."""
    documents = pool.sections["document"][places]
    names, groups = alike[documents], pool.documents["group"][documents]
    firsts: dict[int, tuple[int, int]] = {}
    for place, name, group in zip(places.tolist(), names.tolist(), groups.tolist(), strict=True):
        firsts.setdefault(name, (place, group))
    shared = {name for name, group in zip(names.tolist(), groups.tolist(), strict=True) if firsts[name][1] != group}
    for place, name in zip(places.tolist(), names.tolist(), strict=True):
        if name in shared:
            clusters.join(place, firsts[name][0])


def _language_split(
    unit: str, why: str, keys: npt.NDArray[np.int64], held: npt.NDArray[np.bool_], sizes: npt.NDArray[np.int32]
) -> LanguageSplit:
    return LanguageSplit(
        unit=unit,
        why=why,
        units=len(np.unique(keys)),
        heldout_units=len(np.unique(keys[held])),
        heldout_bytes=int(sizes[held].sum()),
        bytes=int(sizes.sum()),
    )
