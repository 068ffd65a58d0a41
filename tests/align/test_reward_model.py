"""Reward models: what they read, their losses worked by hand, exact resume, the folder that transformers scores alike."""

import dataclasses
import json
import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dunwu.align.answers import CHOSEN, REJECTED, Answer, Item, rows_of
from dunwu.align.reward.disk import load_reward_model, padding_id, require_same_ids, save_reward_model
from dunwu.align.reward.items import Judged, JudgedStream, encode_pair, read_at
from dunwu.align.reward.learned import RewardDeltas, WholeRewardModel
from dunwu.align.reward.losses import centring_loss, step_loss, tie_loss, tie_threshold_for, win_loss
from dunwu.align.reward.model import Ensemble, new_reward_model
from dunwu.align.reward.objective import PairObjective, StepObjective
from dunwu.align.reward.scorer import RewardModelScorer
from dunwu.align.reward.scoring import score_items
from dunwu.align.reward.steps import encode_steps
from dunwu.core.deltas import LoraSpec
from dunwu.core.errors import DataError, ModelError
from dunwu.core.files import sha256_file
from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import RewardSection
from dunwu.core.records import Completion, Message, Preference, StepwiseAnswer
from dunwu.corpus.json_rows import BadRow
from dunwu.delta.registry import attach
from dunwu.evaluate.scorers.base import Case
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import load_model, save_model
from dunwu.tokenizer.bpe import train_tokenizer
from dunwu.train.loop import fit
from dunwu.train.optim import build_delta_optimizer, build_optimizer
from dunwu.train.signals import Interrupted, StopSignal
from tests.cut import Cut

from ..model.test_families import CONFIGS, strong
from .helpers import CONFIG


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    text = "what is it? it is a cat, and no dog. 12 + 30 = 42 so\n" * 20
    return train_tokenizer([text], vocab_size=300, out=tmp_path_factory.mktemp("tokenizer"))


def model_for(tokenizer, *, heads=1, seed=0, **more):
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size, max_position_embeddings=128)
    return new_reward_model(new_decoder(config, seed=seed), seed=seed, heads=heads, **more)


def said(text, role="assistant"):
    return (Message(role=role, content=text),)


def preference(prompt="what is it?", chosen="it is a cat", rejected="no dog", **more):
    return Preference(prompt=said(prompt, "user"), chosen=said(chosen), rejected=said(rejected), source="x", **more)


def case(prompt, text, **more):
    return Case(
        prompt=said(prompt, "user"), completion=Completion(text=text, ids=(), finish_reason="stop", **more), columns={}
    )


def judged(count=48):
    """Answers that go up are better than those that go down."""

    def pair(start):
        sides = ([start + 1, start + 2, 1], CHOSEN), ([start - 1, start - 2, start - 3, 1], REJECTED)
        answers = tuple(read_at(np.array(ids, np.int32), [len(ids) - 1], kind) for ids, kind in sides)
        return Judged(item=Item(np.array([2, start], np.int32), answers))

    return [pair((7 * number) % 40 + 8) for number in range(count)]


# Losses


def test_bradley_terry_by_hand():
    # Scores 2 and 1: the better one wins with probability e^2 / (e^2 + e^1) = 0.7311
    assert win_loss(torch.tensor(1.0)).item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + math.e)), abs=1e-6)
    # With a margin of 3 it should lead by 3, and leads by 1: as if it were 2 behind
    assert win_loss(torch.tensor(1.0), margin=3.0).item() == pytest.approx(math.log1p(math.e**2), abs=1e-6)
    assert centring_loss(torch.tensor(2.0), torch.tensor(-0.5)).item() == 2.25


def test_rao_kupper_by_hand():
    # Worths 3 and 1, theta 2: first 3/(3+2) = 0.6, second 1/(1+6) = 1/7, tie (4-1)·3·1/((3+2)(6+1)) = 9/35
    difference, eta = torch.tensor(math.log(3.0), dtype=torch.float64), math.log(2.0)
    assert win_loss(difference, tie_threshold=eta).item() == pytest.approx(-math.log(3 / 5))
    assert win_loss(-difference, tie_threshold=eta).item() == pytest.approx(-math.log(1 / 7))
    assert tie_loss(difference, tie_threshold=eta).item() == pytest.approx(-math.log(9 / 35))


@given(difference=st.floats(-30, 30), eta=st.floats(0.01, 5))
def test_win_loss_and_tie_are_all_that_can_happen(difference, eta):
    d = torch.tensor(difference, dtype=torch.float64)
    losses = win_loss(d, tie_threshold=eta), win_loss(-d, tie_threshold=eta), tie_loss(d, tie_threshold=eta)
    assert sum(math.exp(-loss.item()) for loss in losses) == pytest.approx(1.0)


@given(share=st.floats(0.001, 0.99))
def test_the_threshold_makes_equal_answers_tie_so_often(share):
    loss = tie_loss(torch.zeros((), dtype=torch.float64), tie_threshold=tie_threshold_for(share))
    assert math.exp(-loss.item()) == pytest.approx(share, rel=1e-6)


def test_steps_by_hand_and_unknown_ones_say_nothing():
    scores = torch.tensor([0.0, 2.0, 5.0, -1.0], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1.0, 0.0, math.nan, 0.0], dtype=torch.float64)
    losses = step_loss(scores, labels)
    assert losses.tolist() == pytest.approx([math.log(2), math.log1p(math.e**2), 0.0, math.log1p(math.exp(-1))])
    losses.sum().backward()
    assert scores.grad[2] == 0
    assert scores.grad.isfinite().all()


def test_pairs_equal_trls_loss():
    trl = pytest.importorskip("trl", reason="trl is not installed")
    model = new_reward_model(new_decoder(CONFIG, seed=0), seed=0)
    pairs = [dataclasses.replace(one, margin=0.25 * number) for number, one in enumerate(judged(6))]
    batch = JudgedStream(pairs, least_width=128, seed=0).batch(0, 1)
    ours, figures = PairObjective(model, centring=0.01)(model.decoder, batch, total_learned=6)
    kinds = batch.annotations["kind_A"]
    logits = torch.cat([model.scores(batch)[kinds == kind] for kind in (CHOSEN, REJECTED)])[:, None]
    accelerator = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=0.01),
        accelerator=accelerator,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": defaultdict(list)},
    )
    inputs = {"attention_mask": torch.ones(1), "margin": batch.annotations["margin_P"]}
    theirs = trl.RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    seen = trainer._metrics["train"]
    assert figures["reward_accuracy"].item() == pytest.approx(seen["accuracy"][0])
    assert figures["reward_margin"].item() == pytest.approx(seen["margin"][0], abs=1e-6)


def test_the_objective_is_the_mean_over_pairs_by_hand():
    pairs = [dataclasses.replace(one, margin=0.5 * n) for n, one in enumerate(judged(4))]
    pairs[2] = dataclasses.replace(pairs[2], tie=True)
    model = new_reward_model(new_decoder(CONFIG, seed=0), seed=0, tie_threshold=0.7)
    stream = JudgedStream(pairs, least_width=64, seed=0)
    batch = stream.batch(0, 1)
    assert batch.learned_tokens == 4
    loss, figures = PairObjective(model, centring=0.01)(model.decoder, batch, total_learned=4)
    wanted = []
    scores = score_items(model, [one.item for one in pairs])
    for one, ((first,), (second,)) in zip(pairs, scores, strict=True):
        d = torch.tensor(first - second)
        of_pair = tie_loss(d, tie_threshold=0.7) if one.tie else win_loss(d, margin=one.margin, tie_threshold=0.7)
        wanted.append(of_pair.item() + 0.01 * (first + second) ** 2)
    assert loss.item() == pytest.approx(np.mean(wanted), abs=1e-5)
    assert figures["rewards_chosen"].item() == pytest.approx(np.mean([s[0] for s in scores]), abs=1e-5)


# What is read


def plain_score(model, prompt, ids):
    """The answer by itself, its last token read."""
    row = torch.tensor(np.concatenate((prompt, ids)), dtype=torch.long)[None]
    return model.head(model.decoder(row))[0, -1]


def test_answers_that_share_a_row_have_the_scores_that_each_has_alone(tokenizer):
    model = model_for(tokenizer, heads=2)
    pairs = [
        encode_pair(tokenizer, one, context_length=128)
        for one in (preference(), preference("what?", "a", ""), preference(chosen="it is", rejected="it is a cat"))
    ]
    for one, scores_AK in zip(pairs, score_items(model, [one.item for one in pairs]), strict=True):
        for answer, scores_K in zip(one.item.answers, scores_AK, strict=True):
            assert (
                answer.ids[-2] == tokenizer.im_end_id
            )  # what is read ends the turn; the id behind it is never looked at
            alone_K = plain_score(model, one.item.prompt, answer.ids[:-1])
            torch.testing.assert_close(torch.from_numpy(scores_K), alone_K.detach(), atol=1e-5, rtol=0)


def test_an_answer_beyond_the_context_loses_its_end_but_still_ends_its_turn(tokenizer):
    long = preference(chosen="it is a cat " * 30)
    found = encode_pair(tokenizer, long, context_length=60)
    assert len(found.item.prompt) + found.lengths[0] == 60
    assert found.item.answers[0].ids[-2] == tokenizer.im_end_id
    with pytest.raises(BadRow, match="has an answer that is too long"):
        encode_pair(tokenizer, long, context_length=60, too_long="drop")
    with pytest.raises(BadRow, match="has a prompt that is too long"):
        encode_pair(tokenizer, preference("what is it? " * 30), context_length=60)
    same = "it is a cat and no dog " * 30
    with pytest.raises(BadRow, match="has two equal answers"):
        encode_pair(tokenizer, preference(chosen=same + "a", rejected=same + "b"), context_length=60)


def test_steps_are_read_where_each_ends(tokenizer):
    steps = ("12 + 30 = 42", "so it is 42", "a cat")
    one = StepwiseAnswer(prompt=said("what is it?", "user"), steps=steps, labels=(True, None, False), source="x")
    found = encode_steps(tokenizer, one, context_length=128)
    (answer,) = found.item.answers
    ends = np.flatnonzero(answer.learned) - 1
    assert [tokenizer.decode(answer.ids[: end + 1]) for end in ends] == [
        "\n".join(steps[: number + 1]) for number in range(3)
    ]
    assert found.labels[0] == 1.0
    assert math.isnan(found.labels[1])
    assert found.labels[2] == 0.0
    model = model_for(tokenizer, reads="steps")
    (scores_NK,) = score_items(model, [found.item])
    alone = plain_score(model, found.item.prompt, answer.ids[: ends[1] + 1])
    assert scores_NK[1, 0] == pytest.approx(alone.item(), abs=1e-5)
    with pytest.raises(BadRow, match="has no step that is judged"):
        encode_steps(tokenizer, dataclasses.replace(one, labels=(None,) * 3), context_length=128)
    size = len(found.item.prompt) + int(ends[1]) + 1
    assert len(encode_steps(tokenizer, one, context_length=size).labels) == 2
    with pytest.raises(BadRow, match="has steps that are too long"):
        encode_steps(tokenizer, one, context_length=size, too_long="drop")


# Ensembles


def test_ways_to_combine_by_hand():
    scores = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert Ensemble()(scores).tolist() == [2.0, 2.0]
    assert Ensemble(combine="min")(scores).tolist() == [1.0, 2.0]
    assert Ensemble(combine="cautious", caution=0.5)(scores).tolist() == [1.5, 2.0]
    one = torch.tensor([[1.0], [-2.0]])
    assert all(Ensemble(combine=c)(one).tolist() == [1.0, -2.0] for c in ("mean", "min", "cautious"))


def test_heads_learn_from_resamples_of_their_own():
    stream = JudgedStream(judged(400), least_width=64, seed=3, heads=3)
    assert stream.weights_PK.mean(0) == pytest.approx([1, 1, 1], abs=0.2)
    assert not np.array_equal(stream.weights_PK[:, 0], stream.weights_PK[:, 1])
    notes = stream.batch(0, 2).annotations
    assert len(notes["weight_PK"]) == len(notes["kind_A"]) // 2
    again = JudgedStream(judged(400), least_width=64, seed=3, heads=3)
    assert np.array_equal(stream.weights_PK, again.weights_PK)
    assert again.fingerprint == stream.fingerprint


# Learning


def learn(folder, *, cut=10**9, lora=False, heads=1, passes=12):
    decoder = new_decoder(CONFIG, seed=0)
    model = new_reward_model(decoder, seed=0, heads=heads)
    section = RewardSection(checkpoint_every_s=1e-3 if cut < 10**9 else 3600.0)
    stream = JudgedStream(judged(), least_width=32, seed=0, heads=heads)
    if lora:
        learned = RewardDeltas(model, attach(decoder, LoraSpec(r=4), seed=0), name="adapter", base_name="")
        optimizer = build_delta_optimizer(learned, section, 1e-2)
    else:
        learned = WholeRewardModel(model, pad_id=0)
        optimizer = build_optimizer(model, section, (0.0, 3e-3))
    with StopSignal() as stop:
        fit(
            decoder,
            Cut(stream, cut),
            PairObjective(model),
            optimizer,
            section,
            total_tokens=passes * stream.rows_per_epoch * stream.context_length,
            batch_rows=4,
            micro_batch_rows=4,
            folder=folder,
            seed=0,
            progress=SilentProgress(),
            stop=stop,
            learned=learned,
        )
    return model


def accuracy(model):
    scores = score_items(model, [one.item for one in judged()])
    return float(np.mean([values.mean(-1)[0] > values.mean(-1)[1] for values in scores]))


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_that_was_cut_ends_in_the_same_weights(tmp_path, lora):
    straight = learn(tmp_path / "straight", lora=lora, heads=2)
    with pytest.raises(Interrupted):
        learn(tmp_path / "cut", cut=20, lora=lora, heads=2)
    resumed = learn(tmp_path / "cut", lora=lora, heads=2)
    assert accuracy(straight) > 0.95
    for (name, ours), (_, theirs) in zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    if not lora:
        files = [sha256_file(tmp_path / run / "model.safetensors") for run in ("straight", "cut")]
        assert files[0] == files[1]


def test_steps_are_learned():
    def one(start):
        ids = np.array([start + 1, 3, start + 2, 3, start - 1, 3, 1], np.int32)
        answer = read_at(ids, [1, 3, 5], CHOSEN)
        return Judged(item=Item(np.array([2, start], np.int32), (answer,)), labels=(1.0, math.nan, 0.0))

    rows = [one((7 * number) % 40 + 8) for number in range(48)]
    decoder = new_decoder(CONFIG, seed=0)
    model = new_reward_model(decoder, seed=0, reads="steps")
    stream = JudgedStream(rows, least_width=32, seed=0)
    assert stream.batch(0, 1).learned_tokens * 3 == 2 * len(stream.batch(0, 1).annotations["at_N"])
    optimizer = build_optimizer(model, RewardSection(), (0.0, 3e-3))
    objective = StepObjective(model)
    for step in range(60):
        batch = stream.batch(4 * step, 4)
        loss, figures = objective(decoder, batch, total_learned=batch.learned_tokens)
        loss.backward()
        optimizer.step(1.0, 1.0)
    assert loss.item() < 0.05
    assert figures["step_accuracy"].item() == 1.0


# On disk


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_transformers_gives_the_same_score(config, tmp_path):
    transformers = pytest.importorskip("transformers")
    decoder = strong(config)
    model = new_reward_model(decoder, seed=1)
    save_reward_model(model, tmp_path, pad_id=0)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    assert type(theirs).__name__.endswith("ForSequenceClassification")
    assert (theirs.config.num_labels, theirs.config.problem_type) == (1, "regression")
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(1, 100, (size,), generator=generator) for size in (17, 9, 5, 23)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    with torch.no_grad():
        scores = theirs(padded, attention_mask=(padded != 0).long()).logits[:, 0]
        ours = [plain_score(model, row[:2].numpy(), row[2:].numpy()) for row in rows]
        again = [plain_score(load_reward_model(tmp_path), row[:2].numpy(), row[2:].numpy()) for row in rows]
    assert scores.std() > 0.01
    torch.testing.assert_close(torch.stack(ours)[:, 0], scores, atol=1e-4, rtol=0)
    assert [value.tolist() for value in again] == [value.tolist() for value in ours]


def test_a_folder_says_what_it_was_made_with(tokenizer, tmp_path):
    model = model_for(tokenizer, heads=3, ensemble=Ensemble(combine="cautious", caution=0.5), tie_threshold=0.3)
    save_reward_model(model, tmp_path, pad_id=padding_id(tokenizer, model.config))
    again = load_reward_model(tmp_path)
    assert (again.ensemble, again.reads, again.tie_threshold) == (model.ensemble, "answer", 0.3)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["num_labels"] == 3
    assert values["pad_token_id"] not in (tokenizer.im_end_id, None)
    facts = json.loads((tmp_path / "dunwu.json").read_text())
    (tmp_path / "dunwu.json").write_text(json.dumps({"reward_model": facts["reward_model"] | {"heads": 2}}))
    with pytest.raises(ModelError, match=r"says 2 heads, and score\.weight has 3"):
        load_reward_model(tmp_path)
    (tmp_path / "dunwu.json").unlink()
    with pytest.raises(ModelError, match="has 3 labels: it sorts texts into classes"):
        load_reward_model(tmp_path)


def test_other_folders_are_no_reward_models(tokenizer, tmp_path):
    model = model_for(tokenizer)
    save_reward_model(model, tmp_path / "reward", pad_id=0)
    with pytest.raises(ModelError, match=r"it has the head of a reward model, which scores answers"):
        load_model(tmp_path / "reward")
    save_model(new_decoder(CONFIG, seed=0), tmp_path / "chat")
    with pytest.raises(ModelError, match=r"is no reward model: its config.json names Qwen3ForCausalLM"):
        load_reward_model(tmp_path / "chat")
    with pytest.raises(ModelError, match=r"does not exist"):
        load_reward_model(tmp_path)
    values = json.loads((tmp_path / "chat" / "config.json").read_text())
    (tmp_path / "chat" / "config.json").write_text(
        json.dumps(values | {"architectures": ["Qwen3ForSequenceClassification"]})
    )
    with pytest.raises(ModelError, match=r"have no 'score.weight'"):
        load_reward_model(tmp_path / "chat")


def test_an_architecture_that_transformers_cannot_score_with_is_refused(tmp_path):
    decoder = new_decoder(CONFIGS["gemma3_text"], seed=0)
    decoder.config = dataclasses.replace(decoder.config, architecture="gemma3")
    with pytest.raises(ModelError, match="begin from a model of architecture 'gemma3_text'"):
        save_reward_model(new_reward_model(decoder, seed=0), tmp_path, pad_id=0)


# As a scorer


def test_a_scorer_reads_whole_turns_in_any_order(tokenizer):
    model = model_for(tokenizer)
    scorer = RewardModelScorer(model, tokenizer, name="taste")
    pair = encode_pair(tokenizer, preference(), context_length=128)
    (wanted,) = score_items(model, [pair.item])
    cases = [case("what is it?", "no dog"), case("what?", "a"), case("what is it?", "it is a cat")]
    scores = scorer(cases)
    assert [scores[2], scores[0]] == pytest.approx(wanted[:, 0].tolist(), abs=1e-5)
    assert scorer(cases[::-1])[::-1] == pytest.approx(scores, abs=1e-5)
    assert scorer([]) == []
    assert scorer.name == "taste"
    assert len(scorer([case("what?", "")])) == 1  # an empty answer has a score too


def test_a_scorer_of_several_models_is_an_ensemble(tokenizer):
    models = [model_for(tokenizer, seed=seed) for seed in (0, 1, 2)]
    cases = [case("what is it?", "it is a cat"), case("what?", "no dog")]
    each = np.array([RewardModelScorer(model, tokenizer)(cases) for model in models])
    together = RewardModelScorer(models, tokenizer, ensemble=Ensemble(combine="cautious", caution=2.0))
    assert together(cases) == pytest.approx((each.mean(0) - 2.0 * each.std(0)).tolist(), abs=1e-5)
    assert RewardModelScorer(models, tokenizer, ensemble=Ensemble(combine="min"))(cases) == pytest.approx(
        each.min(0).tolist(), abs=1e-5
    )
    with pytest.raises(DataError, match="some of the reward models read whole answers and some steps"):
        RewardModelScorer([models[0], model_for(tokenizer, reads="steps")], tokenizer)


def test_a_scorer_of_steps_gives_the_worst(tokenizer):
    model = model_for(tokenizer, reads="steps")
    one = StepwiseAnswer(
        prompt=said("what is it?", "user"), steps=("12 + 30", "so it is"), labels=(True, True), source="x"
    )
    (scores,) = score_items(model, [encode_steps(tokenizer, one, context_length=128).item])
    scored = RewardModelScorer(model, tokenizer)([case("what is it?", "12 + 30\n\n  so it is\n")])
    assert scored == pytest.approx([scores.min()], abs=1e-6)


def test_what_a_scorer_cannot_read_is_named(tokenizer):
    scorer = RewardModelScorer(model_for(tokenizer), tokenizer)
    with pytest.raises(DataError, match=r"cannot score an answer to .* has a prompt that is too long"):
        scorer([case("what is it? " * 60, "a cat")])
    assert len(scorer([case("what?", "it is a cat " * 60)])) == 1  # a long answer loses its end


def test_ids_are_not_passed_between_vocabularies(tokenizer, tmp_path):
    require_same_ids(tokenizer, tokenizer, tmp_path)
    other = train_tokenizer(["nothing of that kind " * 30], vocab_size=300, out=tmp_path / "other")
    with pytest.raises(ModelError, match="reads another vocabulary than the policy"):
        require_same_ids(tokenizer, other, tmp_path)


def test_values_at_every_token_are_scores_of_beginnings(tokenizer):
    model = model_for(tokenizer)
    ids = np.arange(5, 15, dtype=np.int32)
    batch = rows_of([Item(ids[:2], (Answer(ids[2:], np.ones(8, bool), CHOSEN),))], [[0]], 16)
    values = model.values(batch)[0]
    for size in (2, 5, 9):
        assert values[size - 1].item() == pytest.approx(plain_score(model, ids[:1], ids[1:size]).item(), abs=1e-5)
