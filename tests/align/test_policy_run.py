"""Runs of policy gradients as a whole: they learn, they can be killed anywhere, and what goes wrong loses nothing."""

import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dunwu.align.doctor.finding import Finding
from dunwu.align.experience import item_of
from dunwu.align.policy_run import _goes_with_length
from dunwu.align.reading import logprobs_of_tokens, read_tokens
from dunwu.align.reference import without_deltas
from dunwu.align.rollout import Sampler, Sampling, seed_of
from dunwu.core.deltas import LoraSpec
from dunwu.core.errors import DataError
from dunwu.core.files import sha256_file
from dunwu.delta.registry import attach
from dunwu.evaluate.scorers.base import Scored
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import read_tensors
from dunwu.train.guard import REWIND_STEPS
from dunwu.train.signals import StopSignal
from tests.align import policy_tiny as tiny

torch.set_num_threads(1)
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.align.policy_tiny"])
METHODS = [{"method": "grpo", "beta": 0.02}, tiny.PPO]


@pytest.fixture
def tmp_path():
    """A folder in memory where the system has such a thing: runs here write many small files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "algorithm",
    [{"method": "grpo"}, {"method": "rloo"}, {"method": "reinforce++"}, {"method": "ppo", "beta": 0.01}],
    ids=lambda a: a["method"],
)
def test_each_method_earns_more_of_its_reward(tmp_path, algorithm):
    tiny.run(tmp_path / "run", algorithm=algorithm, steps=30, lr=0.01)
    rows = tiny.rows(tmp_path / "run")
    first, last = (np.mean([row["reward"] for row in part]) for part in (rows[:4], rows[-4:]))
    assert last > first + 0.15
    wanted = {
        "reward",
        "reward_std",
        "reward.letters",
        "entropy",
        "answer_tokens",
        "ended",
        "ratio_max",
        "ratio_clipped",
    }
    assert wanted <= rows[0].keys()
    assert ("kl" in rows[0]) == (algorithm["method"] in ("reinforce++", "ppo"))
    assert ("groups_without_variance" in rows[0]) == (algorithm["method"] in ("grpo", "rloo"))
    assert max(row["rollout_gap"] for row in rows) < 1e-4
    assert "held_out_score" in rows[4]
    assert "held_out_reward.letters" in rows[4]


def test_the_weights_that_answer_are_those_that_learn(tmp_path):
    """What is trained in place is seen at the next rollout, whatever the engine remembered of the old weights."""
    words = tiny.tokenizer(tmp_path / "words")
    config = {"vocab_size": words.vocab_size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape = DecoderConfig(
        **config, num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64, qk_norm="head"
    )
    model = new_decoder(shape, seed=1)
    sampler = Sampler(model, words, most_prompt=40, most_answer=8)
    prompt = list(range(1, 40))
    before = sampler([prompt], [5], count=3)
    assert sampler([prompt], [5], count=3) == before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = sampler([prompt], [5], count=3)
    fresh = new_decoder(shape, seed=1)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(1.5)
    assert after == Sampler(fresh, words, most_prompt=40, most_answer=8)([prompt], [5], count=3)
    assert after != before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_log_probabilities_are_of_all_that_was_chosen_with_the_end_of_the_turn(tmp_path):
    result, beside = tiny.run(tmp_path / "run", algorithm={"method": "grpo", "epochs": 2, "per": "token"}, steps=3)
    made = beside._stream.at_hand
    assert result.steps == 6
    ended = [reason == "stop" for reason in made.reasons]
    stops = set(tiny.tokenizer(tmp_path / "words").stop_ids)
    last = [int(answer.ids[-1]) for item in made.items for answer in item.answers]
    assert [number in stops for number in last] == ended
    np.testing.assert_allclose(made.engine_N, made.policy_N, atol=1e-4)  # two programs, the same model


def test_seeds_are_a_function_of_their_places():
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3) != seed_of(1, 3, 2)
    assert len({seed_of(0, a, b) for a in range(30) for b in range(30)}) == 900


@pytest.mark.parametrize("algorithm", METHODS, ids=lambda a: a["method"])
def test_kill_9_anywhere_ends_in_the_same_weights(tmp_path, algorithm):
    tiny.tokenizer(tmp_path / "words")
    settings = {"algorithm": algorithm, "steps": 16}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = SERVER.Process(target=tiny.process, args=(whole, settings))
    process.start()
    moments = random.Random()
    killed = 0
    for _ in range(4):
        other = SERVER.Process(
            target=tiny.process, args=(broken, {**settings, "slow_s": 0.03, "checkpoint_every_s": 0.05})
        )
        other.start()
        before = steps_saved(broken)
        deadline_s = time.monotonic() + 60
        while steps_saved(broken) <= before and other.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.001)
        time.sleep(moments.random() * 0.08)
        other.kill()
        other.join(60)
        killed += other.exitcode == -signal.SIGKILL
    assert killed >= 2, "it had ended already: train for longer"
    other = SERVER.Process(target=tiny.process, args=(broken, settings))
    other.start()
    for one in (process, other):
        one.join(120)
        assert one.exitcode == 0
    assert sha256_file(whole / "model.safetensors") == sha256_file(broken / "model.safetensors")
    assert tiny.rows(whole) == tiny.rows(broken)


def steps_saved(folder):
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=-1)


def test_a_reward_that_fails_stops_the_run_and_the_same_run_goes_on(tmp_path):
    algorithm, calls = {"method": "grpo"}, iter(range(10**6))

    def fails(cases):
        if next(calls) == 5:
            raise DataError("the judge is away; call it again later")
        return tiny.likes_a(cases)

    with pytest.raises(DataError, match="away"):
        tiny.run(tmp_path / "broken", algorithm=algorithm, reward=fails)
    assert steps_saved(tmp_path / "broken") > 0
    tiny.run(tmp_path / "broken", algorithm=algorithm)
    tiny.run(tmp_path / "whole", algorithm=algorithm)
    weights = [sha256_file(tmp_path / name / "model.safetensors") for name in ("broken", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("totals", "said"), [([1.0], "gave 1 scores for 4 answers"), ([float("nan")] * 4, "gave nan")])
def test_a_reward_that_is_no_number_for_each_answer_is_refused(tmp_path, totals, said):
    with pytest.raises(DataError, match=said):
        tiny.run(tmp_path / "run", algorithm={"method": "grpo"}, reward=lambda cases: Scored(totals, {}), steps=1)


def test_answers_that_all_score_alike_teach_nothing_and_are_counted(tmp_path):
    def flat(cases):
        return Scored([0.1] * len(cases), {"flat": [0.1] * len(cases)})

    for dynamic in (False, True):
        folder = tmp_path / str(dynamic)
        tiny.run(folder, algorithm={"method": "grpo", "dynamic_sampling": dynamic}, reward=flat, steps=3)
        rows = tiny.rows(folder)
        assert [row["groups_without_variance"] for row in rows] == [1.0] * 3
        assert [row["grad_norm"] for row in rows] == [0.0] * 3


@pytest.mark.parametrize("method", ["grpo", "rloo", "reinforce++", "ppo"])
def test_prompts_that_teach_nothing_are_replaced_by_others(tmp_path, method):
    """Only prompts of one length have answers that differ in score."""

    def few(cases):
        scores = [one.completion.text.count("a") * float(one.prompt[0].content.count("cat") == 2) for one in cases]
        return Scored(scores, {"few": scores})

    def alike(folder, algorithm):
        tiny.run(folder, algorithm=algorithm, reward=few, steps=4)
        return np.mean([row["groups_without_variance"] for row in tiny.rows(folder)])

    kept = alike(tmp_path / "kept", {"method": "grpo"})
    assert alike(tmp_path / "replaced", {"method": method, "dynamic_sampling": True}) < kept


class Pessimist:
    """Says at a step that all is lost."""

    def __init__(self, rows):
        self.findings = []
        for row in rows:
            self.observe(row, row["step"])

    def observe(self, row, step):
        found = [Finding("gloom", step, "lost", "All is lost.", "Try less.")] if step == 7 else []
        self.findings += found
        return found


def test_a_lost_run_ends_and_leaves_the_best_there_was(tmp_path):
    result, beside = tiny.run(tmp_path / "run", algorithm={"method": "grpo"}, steps=20, lr=0.01, watch=Pessimist)
    assert result.steps == 7
    assert beside.over
    best = tmp_path / "run" / "checkpoints" / "best" / f"best-{beside.best_step:08d}.safetensors"
    kept, left = (read_tensors(file) for file in (best, tmp_path / "run" / "model.safetensors"))
    assert all(torch.equal(kept[name], left[name]) for name in left)
    again, _ = tiny.run(tmp_path / "run", algorithm={"method": "grpo"}, steps=20, lr=0.01, watch=Pessimist)
    assert again.steps == 7  # it does not go on as if nothing had been said


def test_rollouts_are_kept_as_far_back_as_checkpoints_reach(tmp_path):
    tiny.run(tmp_path / "run", algorithm={"method": "grpo"}, steps=60, checkpoint_every_s=1e-6)
    checkpoints = tmp_path / "run" / "checkpoints"
    kept = sorted(int(path.name.split("-")[1]) for path in (checkpoints / "rollouts").iterdir())
    assert kept[-1] == 59
    assert 0 < kept[0] <= 60 - REWIND_STEPS


def test_sampling_says_what_its_numbers_are_of():
    assert Sampling() == Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)


def test_the_correlation_with_length_is_among_the_answers_to_one_prompt():
    """Two prompts, worked by hand. Between them longer answers score less; within each they score more."""
    scores = np.array([[1.0, 2.0, 3.0], [-5.0, -5.0, -2.0]])
    tokens = np.array([[1, 2, 3], [10, 10, 13]])
    assert _goes_with_length(scores, tokens) == {"reward_length_correlation": pytest.approx(1.0)}
    mixed = _goes_with_length(np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 3.0]]), np.array([[1, 2, 3], [13, 10, 10]]))
    assert mixed["reward_length_correlation"] == pytest.approx(((1 + 0 + 1) + (-2 + 1 - 2)) / 8)
    assert _goes_with_length(np.ones((2, 3)), tokens) == {}


def test_a_delta_is_in_the_weights_while_they_answer_and_not_after(tmp_path):
    words = tiny.tokenizer(tmp_path / "words")
    model = new_decoder(
        DecoderConfig(
            vocab_size=words.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=64, qk_norm="head",
        ),
        seed=1,
    )  # fmt: skip
    delta = attach(model, LoraSpec(r=4), seed=0)
    with torch.no_grad():
        for parameter in delta.trained().values():
            parameter.normal_(0, 0.3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sampler = Sampler(model, words, most_prompt=20, most_answer=8)
    (answers,) = sampler([list(range(1, 20))], [5], count=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert delta.active
    made = item_of(range(1, 20), answers)
    trainer = read_tokens(model, [made], lambda batch: logprobs_of_tokens(model, batch))
    np.testing.assert_allclose([value for one in answers for value in one.logprobs], trainer, atol=1e-3)
    with without_deltas(model):
        assert np.abs(read_tokens(model, [made], lambda batch: logprobs_of_tokens(model, batch)) - trainer).max() > 0.01


def test_a_rollout_that_is_left_off_leaves_nothing_behind(tmp_path):
    words = tiny.tokenizer(tmp_path / "words")
    shape = DecoderConfig(
        vocab_size=words.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, qk_norm="head",
    )  # fmt: skip
    sampler = Sampler(new_decoder(shape, seed=1), words, most_prompt=40, most_answer=8)
    prompts = [list(range(1, 30)), list(range(2, 20))]
    whole = sampler(prompts, [5, 6], count=2)
    stop = StopSignal()
    stop.request()
    assert sampler(prompts, [5, 6], count=2, stop=stop) is None
    assert sampler(prompts, [5, 6], count=2, stop=StopSignal()) == whole
