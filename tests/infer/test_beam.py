import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.errors import RecipeError
from dunwu.infer.beam import Search, order_of_blocks
from dunwu.infer.sampling import Scored

V, STOP, LENGTH = 4, 3, 4


def table(seed: int) -> torch.Tensor:
    """Log-probabilities after each pair of last tokens, [V + 1, V + 1, V]; place V stands for none."""
    noise = torch.randn(V + 1, V + 1, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1.5 * noise).log_softmax(-1)


def after(logprobs: torch.Tensor, ids) -> list[float]:
    first, second = ([V, V, *ids])[-2:]
    return logprobs[first, second].tolist()


def searched(logprobs: torch.Tensor, **values) -> Search:
    search = Search(**{"max_tokens": LENGTH, "stop_ids": frozenset({STOP}), **values})
    while not search.done:
        likeliest = []
        for beam in search.beams:
            ranked = sorted(enumerate(after(logprobs, beam.ids)), key=lambda pair: -pair[1])
            likeliest.append([Scored(*pair) for pair in ranked[: search.wanted]])
        search.advance(likeliest)
    return search


def everything(logprobs: torch.Tensor, penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """All completions with their worth, the best first."""
    found = []
    for length in range(1, LENGTH + 1):
        for ids in itertools.product(range(V), repeat=length):
            if STOP in ids[:-1] or (ids[-1] != STOP and length < LENGTH):
                continue
            total = sum(after(logprobs, ids[:place])[number] for place, number in enumerate(ids))
            found.append((total / length**penalty, ids if ids[-1] != STOP else ids[:-1]))
    return sorted(found, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([-0.5, 0.0, 0.7, 1.0, 2.0]))
def test_a_beam_wide_enough_finds_what_brute_force_finds(seed, penalty):
    logprobs = table(seed)
    width = V**LENGTH
    search = searched(logprobs, width=width, length_penalty=penalty)
    expected = everything(logprobs, penalty)
    assert [one.ids for one in search.best(5)] == [ids for _, ids in expected[:5]]
    assert [one.score for one in search.best(5)] == pytest.approx([score for score, _ in expected[:5]])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([-0.5, 0.0, 1.0]))
def test_a_narrow_beam_equals_a_plain_one_that_never_ends_early(seed, width, penalty):
    """Against the textbook's search in a few lines: the end comes early only where it changes nothing."""
    logprobs = table(seed)
    live, done = [((), 0.0)], []
    for _ in range(LENGTH):
        grown = [
            ((*ids, number), total + share) for ids, total in live for number, share in enumerate(after(logprobs, ids))
        ]
        grown.sort(key=lambda pair: -pair[1])
        done += [pair for pair in grown[:width] if pair[0][-1] == STOP]
        live = [pair for pair in grown if pair[0][-1] != STOP][:width]
    worths = sorted((total / len(ids) ** penalty for ids, total in done + live), reverse=True)
    found = searched(logprobs, width=width, length_penalty=penalty)
    assert [one.score for one in found.finished] == pytest.approx(worths[:width])


def test_one_beam_is_greedy():
    logprobs = table(3)
    ids: list[int] = []
    while len(ids) < LENGTH:
        values = after(logprobs, ids)
        ids.append(values.index(max(values)))
        if ids[-1] == STOP:
            break
    [best] = searched(logprobs, width=1).finished
    assert [*best.ids] == [number for number in ids if number != STOP]
    assert best.stopped == (ids[-1] == STOP)


def scored(*shares: float) -> list[Scored]:
    ranked = sorted(enumerate(shares), key=lambda pair: -pair[1])
    return [Scored(number, math.log(share) if share else -math.inf) for number, share in ranked]


def test_rounds_by_hand():
    search = Search(width=2, max_tokens=3, stop_ids=frozenset({STOP}), length_penalty=0.0)
    beams = search.advance([scored(0.5, 0.3, 0.2, 0.0)])
    assert [beam.ids for beam in beams] == [(0,), (1,)]
    beams = search.advance([scored(0.4, 0.4, 0.0, 0.2), scored(0.1, 0.0, 0.0, 0.9)])
    # 1 then stop: 0.27, the likeliest of all; 0 0 and 0 1: 0.20 each; 0 then stop, 0.10, is too far down.
    assert [one.ids for one in search.finished] == [(1,)]
    assert search.finished[0].score == pytest.approx(math.log(0.27))
    assert [(beam.ids, beam.parent) for beam in beams] == [((0, 0), 0), ((0, 1), 0)]
    assert order_of_blocks(2, beams) == {0: [0, 1], 1: []}
    search.advance([scored(0.9, 0.1, 0.0, 0.0), scored(0.0, 0.0, 0.05, 0.95)])
    assert search.done
    assert [(one.ids, one.stopped) for one in search.best(2)] == [((1,), True), ((0, 1), True)]


def test_the_length_penalty_decides_between_short_and_long():
    def winner(penalty: float) -> tuple[int, ...]:
        search = Search(width=2, max_tokens=2, stop_ids=frozenset({STOP}), length_penalty=penalty)
        search.advance([scored(0.55, 0.0, 0.0, 0.45)])
        if not search.done:
            search.advance([scored(0.7, 0.3, 0.0, 0.0)])
        return search.best()[0].ids

    assert winner(0.0) == ()  # 0.45 against 0.385
    assert winner(1.0) == (0, 0)  # log 0.45 = -0.80 against log 0.385 / 2 = -0.48


def test_early_ends_at_the_first_full_set():
    early = Search(width=1, max_tokens=9, stop_ids=frozenset({STOP}), length_penalty=2.0, early=True)
    patient = Search(width=1, max_tokens=9, stop_ids=frozenset({STOP}), length_penalty=2.0)
    for search in (early, patient):
        search.advance([scored(0.3, 0.0, 0.0, 0.7)])
    assert early.done
    assert not patient.done


def test_a_search_without_any_way_on_is_done():
    search = Search(width=2, max_tokens=5, stop_ids=frozenset({STOP}))
    assert search.advance([[Scored(0, -math.inf)]]) == []
    assert search.done
    assert search.best() == []


@pytest.mark.parametrize("values", [{"width": 0}, {"max_tokens": 0}, {"length_penalty": math.nan}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(RecipeError, match=next(iter(values))):
        Search(**{"width": 2, "max_tokens": 3, "stop_ids": frozenset(), **values})
