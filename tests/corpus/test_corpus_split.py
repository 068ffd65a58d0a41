"""The held-out split: of the right size, of whole units, and closed to near-duplicates."""

import numpy as np
import pytest
from document_files import chinese, english
from hypothesis import given
from hypothesis import strategies as st

from dunwu.corpus.split import choose_unit, hold_out, section_spans


@given(st.integers(0, 10**6), st.integers(2, 300), st.sampled_from([0.02, 0.05, 0.2]))
def test_clusters_stay_whole_and_training_keeps_most(seed: int, count: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, max(2, count // 2), count)
    sizes = rng.integers(1, 10_000, count)
    held = hold_out(clusters, sizes, fraction, (seed,))
    for name in np.unique(clusters):
        assert len(set(held[clusters == name].tolist())) == 1
    assert not held.all()
    if len(np.unique(clusters)) > 1 and held.any():
        smallest = min(sizes[clusters == name].sum() for name in np.unique(clusters))
        assert sizes[held].sum() <= max(2.2 * fraction * sizes.sum(), smallest)


def test_about_the_fraction_is_held_out() -> None:
    sizes = np.random.default_rng(0).integers(500, 5000, 2000)
    held = hold_out(np.arange(2000), sizes, 0.05, (1,))
    assert sizes[held].sum() == pytest.approx(0.05 * sizes.sum(), rel=0.2)


def test_a_library_of_44_books_gives_four() -> None:
    sizes = np.random.default_rng(0).integers(300_000, 900_000, 44)
    assert hold_out(np.arange(44), sizes, 0.05, (0,)).sum() == 4


def test_a_few_huge_documents_do_not_cost_the_small_ones() -> None:
    sizes = np.array([2_000_000] * 4 + [300] * 7000)
    held = hold_out(np.arange(len(sizes)), sizes, 0.05, (0,))
    assert not held[:4].any()
    assert 350 <= held.sum() <= 701


def test_the_seed_chooses() -> None:
    sizes = np.full(500, 1000)
    first, again, other = (hold_out(np.arange(500), sizes, 0.05, (seed,)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_unit() -> None:
    assert choose_unit("auto", np.full(44, 600_000), 0.05)[0] == "document"
    assert choose_unit("auto", np.full(4, 2_000_000), 0.05)[0] == "section"
    assert choose_unit("auto", np.array([10_000_000] + [10] * 30), 0.05)[0] == "document"
    assert choose_unit("auto", np.full(19, 100), 0.05)[0] == "section"
    assert choose_unit("document", np.full(4, 100), 0.05)[0] == "document"
    assert choose_unit("section", np.full(4000, 100), 0.05)[0] == "section"


@pytest.mark.parametrize("text", [english(1, 3000), chinese(1, 3000), "x" * 100_000, "", "short", "\n\n" * 5000])
def test_sections_lose_nothing(text: str) -> None:
    spans = section_spans(text, 2000)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(end - start <= 3000 for start, end in spans)


def test_sections_begin_at_chapters() -> None:
    chapters = [f"第{number}回 起头\n\n{chinese(number, 120)}\n" for number in "一二三四五六"]
    text = "\n".join(chapters)
    starts = [text[start : start + 3] for start, _ in section_spans(text, len(chapters[0]))]
    assert all(start.startswith("第") and start.endswith("回") for start in starts)


def test_sections_begin_at_paragraphs() -> None:
    text = english(2, 1000)
    paragraphs = set(text.split("\n\n"))
    assert all(text[start:end].split("\n\n")[0] in paragraphs for start, end in section_spans(text, 3000))
