import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from dunwu.core.errors import ModelError, RecipeError
from dunwu.infer.sampling import History, SamplingParams, choose, distribution, draw, pick, token_logprobs

from .chance import DRAWS, comes_from, counts_of

SHARES = [0.30, 0.22, 0.16, 0.12, 0.09, 0.06, 0.04, 0.01]
LOGITS = torch.tensor([SHARES]).log() + 1.7  # logits are known up to a constant only
NOTHING = History((), ())
PAST = History([2, 2, 5], [0, 0, 3])
UNIFORMS = [draw(20, index) for index in range(DRAWS)]


def normal(shares: list[float]) -> list[float]:
    return [share / sum(shares) for share in shares]


def rounded(params: SamplingParams, past: History = NOTHING, logits=LOGITS) -> list[float]:
    return [round(value, 4) for value in distribution(logits, [params], [past])[0].tolist()]


def sampled(**values) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, **values})


def typical_by_hand(shares: list[float], mass: float) -> list[float]:
    entropy = -sum(share * math.log(share) for share in shares)
    kept: list[int] = []
    for place in sorted(range(len(shares)), key=lambda place: abs(-math.log(shares[place]) - entropy)):
        kept.append(place)
        if sum(shares[one] for one in kept) >= mass:
            break
    return normal([share if place in kept else 0.0 for place, share in enumerate(shares)])


def penalised_by_hand(*, repetition: float, presence: float, frequency: float) -> list[float]:
    logits = LOGITS[0].tolist()
    for number in {*PAST.prompt, *PAST.completion}:
        logits[number] = logits[number] / repetition if logits[number] > 0 else logits[number] * repetition
    for number, count in ((0, 2), (3, 1)):
        logits[number] -= presence + frequency * count
    return normal([math.exp(logit) for logit in logits])


EXACT = {
    "none": (sampled(), SHARES),
    "temperature": (sampled(temperature=1.5), normal([share ** (1 / 1.5) for share in SHARES])),
    "top_k": (sampled(top_k=3), normal(SHARES[:3] + [0] * 5)),
    "top_p": (sampled(top_p=0.6), normal(SHARES[:3] + [0] * 5)),  # 0.30 + 0.22 fall short of it
    "min_p": (sampled(min_p=0.35), normal(SHARES[:4] + [0] * 4)),  # at least 0.35 · 0.30 = 0.105
    "typical_p": (sampled(typical_p=0.5), typical_by_hand(SHARES, 0.5)),
    "repetition_penalty": (sampled(repetition_penalty=1.6), penalised_by_hand(repetition=1.6, presence=0, frequency=0)),
    "presence_penalty": (sampled(presence_penalty=0.7), penalised_by_hand(repetition=1, presence=0.7, frequency=0)),
    "frequency_penalty": (sampled(frequency_penalty=0.4), penalised_by_hand(repetition=1, presence=0, frequency=0.4)),
    "logit_bias": (
        sampled(logit_bias={1: math.log(2), 0: -100}),
        normal([SHARES[0] * math.exp(-100), 0.44, *SHARES[2:]]),
    ),
    "all": (sampled(temperature=0.8, top_k=6, top_p=0.9, min_p=0.2), None),
}
EXACT["all"] = (EXACT["all"][0], normal([share**1.25 if share**1.25 >= 0.2 * 0.3**1.25 else 0 for share in SHARES]))


@pytest.mark.parametrize("name", EXACT)
def test_what_is_drawn_follows_the_exact_distribution(name):
    params, expected = EXACT[name]
    torch.testing.assert_close(distribution(LOGITS, [params], [PAST])[0], torch.tensor(expected), atol=1e-6, rtol=1e-4)
    expected = [share if share > 1e-20 else 0.0 for share in expected]
    ids = choose(LOGITS.expand(DRAWS, -1), [params] * DRAWS, [PAST] * DRAWS, UNIFORMS).ids
    assert comes_from(counts_of(ids, 8), expected)
    if name != "none":
        assert not comes_from(counts_of(ids, 8), SHARES), "the test could not have failed"


def test_tokens_of_one_request_are_independent_of_each_other():
    ids = pick(torch.tensor([[0.5, 0.3, 0.2]]).expand(DRAWS, -1), UNIFORMS)
    pairs = [3 * before + after for before, after in zip(ids[::2], ids[1::2], strict=True)]
    assert comes_from(counts_of(pairs, 9), [one * other for one in (0.5, 0.3, 0.2) for other in (0.5, 0.3, 0.2)])


def test_draws_for_another_branch_use_or_seed_are_others():
    names = [{"seed": 20}, {"seed": 20, "branch": 1}, {"seed": 20, "use": "accept"}, {"seed": 21}]
    columns = [[int(draw(**{"index": index, **name}) * 4) for index in range(20_000)] for name in names]
    for place, one in enumerate(columns):
        for other in columns[:place]:
            pairs = [4 * left + right for left, right in zip(one, other, strict=True)]
            assert comes_from(counts_of(pairs, 16), [1 / 16] * 16)


def test_filters_by_hand():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def kept(**values) -> list[float]:
        return rounded(sampled(**values), logits=logits)

    assert kept() == [0.4, 0.3, 0.2, 0.1]
    assert kept(top_k=2) == [0.5714, 0.4286, 0, 0]
    assert kept(top_k=10**12) == [0.4, 0.3, 0.2, 0.1]
    assert kept(top_p=0.6) == [0.5714, 0.4286, 0, 0]
    assert kept(top_p=1e-9) == kept(top_k=1) == kept(min_p=1.0) == kept(temperature=1e-300) == [1, 0, 0, 0]
    assert kept(temperature=1e300) == [0.25] * 4
    assert kept(top_k=3, top_p=0.7) == [0.5714, 0.4286, 0, 0]  # 0.4 / 0.9 + 0.3 / 0.9 reach 0.7
    assert kept(typical_p=0.2) == [0, 1, 0, 0]  # the entropy is 1.28 nats: 0.3's surprise, 1.20, is nearest


def test_equal_tokens_stay_or_go_together():
    equal = torch.tensor([[1.0, 3.0, 1.0, 3.0, 3.0]])
    for params in (sampled(top_k=1), sampled(top_p=0.1), sampled(min_p=1.0)):
        assert rounded(params, logits=equal) == [0, 0.3333, 0, 0.3333, 0.3333]


VOCABULARY = 12
_logits = st.lists(
    st.one_of(st.floats(-30, 30, width=32), st.just(-math.inf)), min_size=VOCABULARY, max_size=VOCABULARY
).filter(lambda row: max(row) > -math.inf)
_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.01, 0.7, 1.0, 3.0]),
    top_k=st.integers(0, 20),
    top_p=st.sampled_from([0.01, 0.3, 0.9, 0.999999, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    typical_p=st.sampled_from([0.01, 0.5, 0.999999, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.3]),
    presence_penalty=st.sampled_from([-1.0, 0.0, 1.0]),
    frequency_penalty=st.sampled_from([-1.0, 0.0, 1.0]),
    logit_bias=st.dictionaries(st.integers(0, VOCABULARY + 3), st.floats(-100, 100), max_size=3),
    min_tokens=st.integers(0, 3),
    stop_ids=st.lists(st.integers(0, VOCABULARY + 3), max_size=14).map(tuple),
    logprobs=st.one_of(st.none(), st.integers(0, 20)),
)
_ids = st.lists(st.integers(0, VOCABULARY + 3), max_size=5)
_rows = st.lists(
    st.tuples(_logits, _params, st.builds(History, _ids, _ids), st.floats(0, 1, exclude_max=True)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(_rows)
def test_a_row_gets_the_same_whatever_else_is_in_the_batch(rows):
    logits, params, histories, draws = zip(*rows, strict=True)
    logits_BV = torch.tensor(logits)
    together = choose(logits_BV, params, histories, draws)
    shares_BV = distribution(logits_BV, params, histories)
    for row, (one, past, drawn) in enumerate(zip(params, histories, draws, strict=True)):
        alone = choose(logits_BV[row : row + 1], [one], [past], [drawn])
        assert alone.ids[0] == together.ids[row]
        assert shares_BV[row, together.ids[row]] > 0
        assert logits_BV[row, together.ids[row]] > -math.inf
        assert shares_BV[row].sum().item() == pytest.approx(1, abs=1e-5)
        assert (together.logprobs[row] is None) == (one.logprobs is None)
        if one.logprobs is not None:
            values = [[scored.logprob for scored in top] for top in (alone.top[0], together.top[row])]
            assert values[0] == pytest.approx(values[1])  # which of several equal tokens comes first is open
            assert len(together.top[row]) == min(one.logprobs, VOCABULARY)


@settings(max_examples=100, deadline=None)
@given(_logits, _params)
def test_filters_keep_order_and_ratios(logits, params):
    """What stays keeps its likelihood relative to the others, and the likeliest stays (typical alone may drop it)."""
    params = replace(params, temperature=1.0, typical_p=1.0)
    plain_V = distribution(torch.tensor([logits]), [_unfiltered(params)], [NOTHING])[0]
    kept_V = distribution(torch.tensor([logits]), [params], [NOTHING])[0]
    staying = kept_V > 0
    # Of logits that differ in the last place the larger one may stay alone, though both are as likely in float32.
    assert staying[plain_V == plain_V.max()].any()
    torch.testing.assert_close(kept_V[staying], plain_V[staying] / plain_V[staying].sum(), rtol=1e-4, atol=1e-7)


def _unfiltered(params: SamplingParams) -> SamplingParams:
    return replace(params, top_k=0, top_p=1.0, min_p=0.0)


@pytest.mark.parametrize("width", [8, 700, 6000])
@pytest.mark.parametrize("spread", [0.02, 1.0, 6.0])
def test_the_filters_and_their_order_are_those_of_transformers(width, spread):
    """Wide and flat distributions too, whose mass is not within the likeliest few."""
    scores_BV = torch.randn(4, width, generator=torch.Generator().manual_seed(width)) * spread
    prompt = [1, 2, 3, 3]
    theirs = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.3),
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(5000),
            TopPLogitsWarper(0.93),
            MinPLogitsWarper(0.001),
            TypicalLogitsWarper(0.8),
        ]
    )
    expected_BV = theirs(torch.tensor([prompt] * 4), scores_BV.clone()).softmax(-1)
    params = SamplingParams(repetition_penalty=1.3, temperature=0.7, top_k=5000, top_p=0.93, min_p=0.001, typical_p=0.8)
    ours_BV = distribution(scores_BV, [params] * 4, [History(prompt, ())] * 4)
    differing = ((ours_BV > 0) != (expected_BV > 0)).sum().item()
    assert differing <= 4  # a token at the border of a mass, by rounding, in a row
    if not differing:
        torch.testing.assert_close(ours_BV, expected_BV)


def test_logits_of_any_type_and_layout():
    wide = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    params = [SamplingParams(repetition_penalty=2.0)] * 3
    histories = [History([0], [1])] * 3
    for logits in (wide.T, wide.T.bfloat16(), torch.cat([wide.T, wide.T], 1)[:, :6]):
        before = logits.clone()
        expected = choose(logits.float().contiguous(), params, histories, [0.5] * 3).ids
        assert choose(logits, params, histories, [0.5] * 3).ids == expected
        assert torch.equal(before, logits), "the caller's logits are not ours to change"


def test_a_number_falls_into_its_share_even_at_the_borders():
    pairs = [(0.0, 0), (0.2999, 0), (0.3001, 1), (0.5199, 1), (0.5201, 2), (1 - 2**-53, 7)]
    shares = torch.tensor(SHARES, dtype=torch.float64).expand(len(pairs), -1)
    assert pick(shares, [number for number, _ in pairs]) == [number for _, number in pairs]
    assert pick(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), [0.0, 1 - 2**-53]) == [2, 0]


def test_masks_rule_above_bias_and_stop_ids_wait_for_the_minimum_length():
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0]] * 2)
    waiting = SamplingParams(min_tokens=2, stop_ids=(0,), logit_bias={1: 100.0})
    allowed = torch.tensor([True, False, True, True])
    params, draws = [waiting, waiting], [0.0, 0.0]
    assert choose(logits, params, [History((), [3])] * 2, draws, masks={0: allowed}).ids == [2, 1]
    assert choose(logits, params, [History((), [3, 3])] * 2, draws, masks={0: allowed}).ids == [0, 1]
    only_stop = torch.tensor([True, False, False, False])
    assert choose(logits, params, [NOTHING] * 2, draws, masks={0: only_stop}).ids == [0, 1]  # the grammar is at its end
    with pytest.raises(ModelError, match="grammar"):
        choose(logits, params, [NOTHING] * 2, draws, masks={0: torch.zeros(4, dtype=torch.bool)})


def test_logprobs_are_the_models_own_and_sorted():
    strange = sampled(temperature=0.3, top_k=1, logit_bias={7: 100.0}, logprobs=3)
    choice = choose(LOGITS.expand(2, -1), [strange, SamplingParams()], [NOTHING] * 2, [0.5, 0.5])
    assert choice.ids == [7, 0]
    assert choice.logprobs[0] == pytest.approx(math.log(0.01))
    assert choice.logprobs[1] is None
    assert choice.top[1] is None
    assert [scored.id for scored in choice.top[0]] == [0, 1, 2]
    assert [scored.logprob for scored in choice.top[0]] == pytest.approx([math.log(share) for share in SHARES[:3]])
    [(first, top), (second, _)] = token_logprobs(LOGITS.expand(2, -1), [4, 6], 0)
    assert (first, second) == (pytest.approx(math.log(0.09)), pytest.approx(math.log(0.04)))
    assert top == []


def test_resolving_fills_in_stops_and_a_seed_once():
    resolved = SamplingParams().resolved([7, 8])
    assert resolved.stop_ids == (7, 8)
    assert resolved.seed is not None
    assert resolved.resolved([9]) == resolved
    assert SamplingParams(ignore_eos=True).resolved([7]).stop_ids == ()
    assert SamplingParams(stop_ids=(3,), seed=5).resolved([7]) == SamplingParams(stop_ids=(3,), seed=5)
    assert SamplingParams().resolved([]).seed != SamplingParams().resolved([]).seed


@pytest.mark.parametrize("params", [SamplingParams(), sampled(), SamplingParams(presence_penalty=1)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_not_a_token(params, bad):
    with pytest.raises(ModelError, match="not finite"):
        choose(torch.tensor([[0.0, bad, 1.0]]), [params], [NOTHING], [0.5])


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "max_tokens": [0, -1, 1.5, math.nan, True],
        "min_tokens": [-1, 0.5, None],
        "temperature": [-0.1, math.nan, math.inf, "1", None],
        "top_k": [-1, 2.5],
        "top_p": [0, -0.5, 1.1, math.nan],
        "min_p": [-0.1, 1.1, math.nan],
        "typical_p": [0, 2, math.nan],
        "repetition_penalty": [0, -1, math.nan, math.inf],
        "presence_penalty": [-2.1, 2.1, math.nan],
        "frequency_penalty": [-3, math.inf, math.nan],
        "logit_bias": [{1: 101}, {1: math.nan}, {-1: 0.0}],
        "stop": ["abc", ("",), (1,)],
        "stop_ids": [(-1,)],
        "seed": [1.5, "x"],
        "n": [0, -3, 10.0],
        "logprobs": [-1, 21],
        "prompt_logprobs": [-1, 21, 0.5],
    }.items(),
)
def test_values_out_of_range_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(RecipeError, match=name):
            SamplingParams(**{name: value})


def test_a_minimum_above_the_maximum_is_refused():
    with pytest.raises(RecipeError, match="min_tokens=5 must be a whole number of at least 0 and at most 3"):
        SamplingParams(max_tokens=3, min_tokens=5)
