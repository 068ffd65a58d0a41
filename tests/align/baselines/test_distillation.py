"""On-policy distillation: the gradient is that of the reverse divergence, the student comes to speak like its teacher, and a
teacher of another vocabulary is refused by the id that differs."""

import json

import numpy as np
import pytest
import torch

from dunwu.align.advantages.annotated import Judged
from dunwu.align.advantages.distill import distill
from dunwu.align.baselines.distillation import load_teacher, require_same_vocabulary
from dunwu.cli.target import resolve
from dunwu.cli.tuning import aligning_words
from dunwu.core.errors import DataError, ModelError, RecipeError
from dunwu.core.policy import DistillSpec, policy_spec
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import save_model
from dunwu.tokenizer.bpe import train_tokenizer
from tests.align import policy_tiny as tiny

SPEC = DistillSpec(teacher="t")


def judged(student, teacher, scores=(0.0,), count=1, tokens=None):
    return Judged(
        scores_A=np.array(scores, float), count=count, tokens_A=np.array(tokens or [len(student)]),
        ended_A=np.ones(len(scores), bool), most_tokens=9, logprob_N=np.array(student, float),
        reference_N=np.array(teacher, float),
    )  # fmt: skip


def test_by_hand():
    found = distill(judged([-1.0, -2.0, -0.5], [-1.5, -0.5, -0.5]), SPEC)
    np.testing.assert_allclose(found.advantage_N, [-0.5 - 1 / 3, 1.5 - 1 / 3, -1 / 3])
    assert found.figures == {"teacher_kl": pytest.approx(-1 / 3)}
    both = distill(
        judged([-1, -1, -1], [-1, -1, -1], scores=(1.0, 0.0), count=2, tokens=[1, 2]),
        DistillSpec(teacher="t", reward_weight=2),
    )
    np.testing.assert_allclose(both.advantage_N, [1, -1, -1])


def test_the_expected_gradient_is_that_of_the_reverse_divergence():
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, dtype=torch.float64).log_softmax(0)
    student = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((student.exp() * (student - teacher)).sum(), logits, retain_graph=True)
    advantage = torch.from_numpy(distill(judged(student.tolist(), teacher.tolist()), SPEC).advantage_N)
    loss = -(student.detach().exp() * advantage * student).sum()  # each token as often as the student chooses it
    (estimated,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(estimated, exact)


def sure_teacher(config):
    """The student, but surer of all that it says."""
    teacher = new_decoder(config, seed=1).requires_grad_(False)
    teacher.model.norm.weight.mul_(12.0)
    return teacher


def test_the_student_comes_to_speak_like_its_teacher(tmp_path):
    algorithm = {"method": "distill", "teacher": "t"}
    tiny.run(
        tmp_path / "run", algorithm=algorithm, steps=36, completions=16, lr=0.01, teacher=sure_teacher, eval_every=99
    )
    rows = tiny.rows(tmp_path / "run")
    first, last = (np.mean([row["teacher_kl"] for row in part]) for part in (rows[:5], rows[-5:]))
    assert first > 1.5
    assert last < 0.6 * first


def test_two_runs_are_one(tmp_path):
    rows = []
    for name in ("one", "two"):
        tiny.run(tmp_path / name, algorithm={"method": "distill", "teacher": "t"}, steps=4, teacher=sure_teacher)
        rows.append(tiny.rows(tmp_path / name))
    assert rows[0] == rows[1]
    assert json.dumps(rows[0][0]).count("teacher_kl") == 1


def test_another_vocabulary_is_refused(tmp_path):
    text = ["a cat sat on a mat by the old door of the mill. " * 5, "the dog ran over hills and fields. " * 5]
    ours, same, other, larger = (tmp_path / name for name in ("ours", "same", "other", "larger"))
    words = [
        train_tokenizer(texts, vocab_size=size, out=folder)
        for texts, size, folder in (
            (text[:1], 280, ours),
            (text[:1], 280, same),
            (text[1:], 280, other),
            (text[:1], 284, larger),
        )
    ]
    require_same_vocabulary(words[0], words[1], same)
    with pytest.raises(
        DataError, match=r"other has another vocabulary: id \d+ is b.* there and b.* in the student; take a teacher"
    ):
        require_same_vocabulary(words[0], words[2], other)
    with pytest.raises(DataError, match="has another vocabulary"):
        require_same_vocabulary(words[0], words[3], larger)
    with pytest.raises(ModelError, match=r"does not exist; give rl\.algorithm\.teacher"):
        load_teacher(tmp_path / "none", words[0], device=torch.device("cpu"), tokens=8)


def test_the_teacher_is_read_whole_and_must_hold_prompt_and_answer(tmp_path):
    words = tiny.tokenizer(tmp_path)
    made = {}
    tiny.run(
        tmp_path / "run",
        algorithm={"method": "distill", "teacher": "t"},
        steps=1,
        teacher=lambda c: made.setdefault(0, sure_teacher(c)),
    )
    save_model(made[0], tmp_path)
    teacher = load_teacher(tmp_path, words, device=torch.device("cpu"), tokens=64)
    torch.testing.assert_close(teacher.model.norm.weight, made[0].model.norm.weight)
    with pytest.raises(ModelError, match=r"reads 64 tokens and prompts with answers have up to 65"):
        load_teacher(tmp_path, words, device=torch.device("cpu"), tokens=65)


def test_specifications():
    assert policy_spec({"method": "distill", "teacher": "x"}).wants_reference
    with pytest.raises(RecipeError, match="teacher is missing"):
        policy_spec({"method": "distill"})
    with pytest.raises(RecipeError, match=r"beta=0\.1: must be at most 0"):
        policy_spec({"method": "distill", "teacher": "x", "beta": 0.1})


def test_a_teacher_alone_is_enough_and_a_reward_is_one_where_it_counts(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"question": "q?"}\n')
    asked = {"method": "distill", "delta": "full", "out": tmp_path / "out"}
    teacher = f"rl.algorithm.teacher={tmp_path}"
    words = aligning_words(str(tmp_path), [str(tmp_path / "p.jsonl"), teacher], rewards=(), **asked)
    recipe, _ = resolve(words)
    assert recipe.rl.algorithm == DistillSpec(teacher=str(tmp_path))
    with pytest.raises(RecipeError, match=r"reward_weight=1.0: there is no reward; give rl\.rewards"):
        resolve([*words, "rl.algorithm.reward_weight=1"])
    recipe, _ = resolve([*words, "rl.algorithm.reward_weight=1", "rl.rewards.0=math"])
    assert recipe.rl.algorithm.reward_weight == 1
    with pytest.raises(RecipeError, match="grpo needs to know how answers are judged"):
        aligning_words(str(tmp_path), ["p.jsonl"], rewards=(), **{**asked, "method": "grpo"})
