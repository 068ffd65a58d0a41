import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.infer.sampling import History, SamplingParams, choose, distribution, draw
from dunwu.infer.speculate import Proposal, accept, draft, histories_of, look_up

from .chance import comes_from, counts_of

V = 5
ROUNDS = 1_000  # requests, each with a seed of its own
NOTHING = History((), ())
TABLES = {
    seed: torch.randn(V + 1, V, generator=torch.Generator().manual_seed(seed)) * 1.5 for seed in (1, 2)
}  # logits after each last token; row V at the beginning


def target_logits(completion) -> torch.Tensor:
    return TABLES[1][completion[-1] if completion else V]


def draft_logits(completion) -> torch.Tensor:
    """Near the target, as a draft model is, and not equal."""
    last = completion[-1] if completion else V
    return 0.7 * TABLES[1][last] + 0.6 * TABLES[2][last]


def plain(params: SamplingParams, length: int) -> list[int]:
    ids: list[int] = []
    for place in range(length):
        drawn = draw(params.seed, place)
        ids += choose(target_logits(ids)[None], [params], [History((), ids)], [drawn]).ids
    return ids


def speculated(params: SamplingParams, length: int, propose) -> tuple[list[int], int]:
    """`length` tokens, and how many forwards of the target they took."""
    ids: list[int] = []
    forwards = 0
    while len(ids) < length:
        past = History((), ids)
        proposal = propose(past)
        histories = histories_of(past, proposal)
        logits = torch.stack([target_logits(history.completion) for history in histories])
        shares = distribution(logits, [params] * len(histories), histories)
        ids = [*ids, *accept(shares, proposal, params, len(ids))]
        forwards += 1
    return ids[:length], forwards


def exact(params: SamplingParams) -> list[float]:
    """The probability of each pair of first tokens, by the chain rule."""
    first = distribution(target_logits([])[None], [params], [NOTHING])[0]
    return [
        (first[one] * share).item()
        for one in range(V)
        for share in distribution(target_logits([one])[None], [params], [History((), [one])])[0]
    ]


PARAMS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.7},
    "min_p, typical": {"min_p": 0.1, "typical_p": 0.9},
    "penalties": {"frequency_penalty": 1.5, "presence_penalty": 0.5, "repetition_penalty": 1.4, "top_k": 4},
}


def proposals(params: SamplingParams, kind: str):
    if kind == "draft":
        return lambda past: draft(draft_logits, params, past, most=2)
    return lambda past: Proposal((3, 1))  # a look-up, often right: the likeliest pair


@pytest.mark.parametrize("kind", ["draft", "certain"])
@pytest.mark.parametrize("name", PARAMS)
def test_what_comes_out_is_distributed_as_without_speculation(name, kind):
    values = {"temperature": 1.0, **PARAMS[name]}
    pairs, forwards = [], 0
    for seed in range(ROUNDS):
        params = SamplingParams(**values, seed=seed)
        (first, second), used = speculated(params, 2, proposals(params, kind))
        pairs.append(V * first + second)
        forwards += used
    params = SamplingParams(**values)
    expected = [share if share > 1e-12 else 0.0 for share in exact(params)]
    assert comes_from(counts_of(pairs, V * V), expected)
    assert forwards < 2 * len(pairs), "nothing was ever accepted"
    wrong = [share for last in range(V) for share in expected[last::V]]  # transposed: the test could have failed
    assert not comes_from(counts_of(pairs, V * V), wrong)


def test_one_place_over_many_draws():
    """The rule by itself, against p, where the draft is far off."""
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    taken = []
    for seed in range(20_000):
        params = SamplingParams(temperature=1.0, seed=seed)
        proposed = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3][int(draw(seed, 0, use="draft") * 10)]
        shares = torch.stack([p, p])
        taken.append(accept(shares, Proposal((proposed,), q[None]), params, 0)[0])
    assert comes_from(counts_of(taken, 4), p.tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, V - 1), max_size=6), st.sampled_from([0.0, 1.0]))
def test_greedy_gives_exactly_the_plain_tokens(proposed, penalty):
    params = SamplingParams(frequency_penalty=penalty)
    expected = plain(params, 12)
    assert speculated(params, 12, lambda past: Proposal(tuple(proposed)))[0] == expected
    assert speculated(params, 12, lambda past: draft(draft_logits, params, past, most=3))[0] == expected
    assert speculated(params, 12, lambda past: draft(target_logits, params, past, most=3)) == (expected, 3)


def test_a_draft_equal_to_the_target_is_always_accepted():
    for seed in range(50):
        params = SamplingParams(temperature=0.8, top_p=0.9, seed=seed)
        assert speculated(params, 12, lambda past, params=params: draft(target_logits, params, past, most=3))[1] == 3


def test_a_token_that_a_filter_drops_is_never_accepted():
    shares = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    params = SamplingParams(temperature=1.0, seed=0)
    assert accept(shares, Proposal((0,)), params, 0) == [1]
    assert accept(shares, Proposal((0,), torch.tensor([[1.0, 0.0, 0.0]])), params, 0) == [1]


def test_the_same_request_speculates_the_same_again_and_branches_differ():
    params = SamplingParams(temperature=1.0, seed=3)
    runs = [speculated(params, 40, proposals(params, "draft")) for _ in range(2)]
    assert runs[0] == runs[1]
    shares = torch.full((1, 50), 0.02)
    assert len({accept(shares, Proposal(()), params, 0, branch=branch)[0] for branch in range(8)}) > 4


def test_look_up_by_hand():
    assert look_up([1, 2, 3, 4, 9, 2, 3], most=2).ids == (4, 9)
    assert look_up([1, 2, 3, 4, 9, 2, 3], most=9).ids == (4, 9, 2, 3)
    assert look_up([5, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], most=1).ids == (8,)  # the longest match: 1 2 3
    assert look_up([2, 3, 7, 2, 3, 8, 2, 3], most=1).ids == (8,)  # of equally long ones the latest
    assert look_up([4, 4, 4, 4], most=3).ids == (4,)  # a repetition matches itself
    assert look_up([1, 2, 3], most=3).ids == look_up([], most=3).ids == look_up([1, 5, 1], most=3).ids == ()
    assert look_up([1, 5, 1], most=1, shortest=1).ids == (5,)
    assert look_up([1, 2, 9, *range(20, 60), 1, 2], most=1, window=10).ids == ()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_a_look_up_is_a_piece_of_the_text_that_followed_its_ending(ids, most):
    found = [*look_up(ids, most=most).ids]
    assert len(found) <= most
    if found:
        texts = [ids[start : start + 2 + len(found)] for start in range(len(ids) - 1)]
        assert [*ids[-2:], *found] in texts
