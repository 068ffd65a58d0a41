"""A whole tiny run of policy gradients, for the tests here and for the processes that they start and kill."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dunwu.align.objectives.policy import PolicyObjective
from dunwu.align.policy_learned import PolicyLearned
from dunwu.align.policy_run import Asked, PolicyRun, RunSettings
from dunwu.align.reading import logprobs_of_tokens, read_tokens
from dunwu.align.rollout import Sampler, Sampling
from dunwu.align.rollout_stream import RolloutStream
from dunwu.align.value import ValueModel
from dunwu.core.files import sha256_file
from dunwu.core.policy import policy_spec
from dunwu.core.progress import Progress, SilentProgress
from dunwu.core.recipe import RlSection
from dunwu.core.records import Completion, Message
from dunwu.evaluate.scorers.base import Case, Scored
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer
from dunwu.train.learned import WholeModel
from dunwu.train.loop import TrainResult, fit
from dunwu.train.optim import build_optimizer, with_values
from dunwu.train.signals import StopSignal

MOST = 8
PPO = {"method": "ppo", "beta": 0.05, "kl_target": 0.5, "kl_horizon": 50, "epochs": 2, "minibatches": 2}


def tokenizer(folder: Path) -> Tokenizer:
    """Made once."""
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(["a cat sat on a mat. " * 5], vocab_size=280, out=folder)
    return Tokenizer.load(folder)


def likes_a(cases: Any) -> Scored:
    """The share of an answer's letters that are an a, and a little for ending."""
    share = [one.completion.text.count("a") / max(1, len(one.completion.text)) for one in cases]
    ended = [float(one.completion.finish_reason == "stop") for one in cases]
    return Scored([a + 0.1 * e for a, e in zip(share, ended, strict=True)], {"letters": share, "ended": ended})


def asked(numbers: range, words: Tokenizer) -> list[Asked]:
    """Prompts of several lengths."""
    made: list[Asked] = []
    for number in numbers:
        text = f"a cat {number} " * (1 + number % 3)
        case = Case(
            prompt=(Message(role="user", content=text),),
            completion=Completion(text="", ids=(), finish_reason="stop"),
            columns={},
        )
        made.append(Asked(ids=tuple(words.encode(text)), case=case))
    return made


def run(
    folder: Path,
    *,
    algorithm: dict[str, Any],
    steps: int = 12,
    prompts: int = 4,
    completions: int = 4,
    lr: float = 3e-3,
    reward: Any = likes_a,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    watch: Any = None,
    eval_every: int = 5,
    teacher: Any = None,
    **settings: Any,
) -> tuple[TrainResult, PolicyRun]:
    """Train the tiny model for `steps` rollouts. `teacher`: makes, from the configuration, what it is compared with."""
    words = tokenizer(folder.parent / "words")
    spec = policy_spec(algorithm)
    config = DecoderConfig(
        vocab_size=words.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, qk_norm="head",
    )  # fmt: skip
    model, before = new_decoder(config, seed=1), new_decoder(config, seed=1).requires_grad_(False)
    before = before if teacher is None else teacher(config)
    values = ValueModel(new_decoder(config, seed=1)) if spec.wants_values else None
    section = RlSection(**{"checkpoint_every_s": 3600.0, **settings})
    stream = RolloutStream(spec, prompts=prompts, most_tokens=MOST, seed=0)
    learned = PolicyLearned(WholeModel(model), values, folder / "checkpoints" / "best", SilentProgress())
    pool, held_out = asked(range(10), words), asked(range(20, 24), words)
    objective = PolicyObjective(spec, values=values)
    optimizer = build_optimizer(model, section, (0.0, lr))
    if values is not None:
        optimizer = with_values(optimizer, values.trained(), section, lr)

    def reference(items: Any) -> Any:
        return read_tokens(before, items, lambda batch: logprobs_of_tokens(before, batch))

    beside = PolicyRun(
        model,
        stream,
        objective,
        Sampler(model, words, most_prompt=max(len(one.ids) for one in (*pool, *held_out)), most_answer=MOST, at_once=8),
        reward,
        pool,
        held_out,
        RunSettings(
            prompts=prompts, completions=completions, sampling=Sampling(), eval_every=eval_every, seed=0, folder=folder,
            key="tiny",
        ),
        progress or SilentProgress(),
        reference=reference if spec.wants_reference else None,
        values=values,
        keep_best=learned.keep_best,
        **({} if watch is None else {"watch": watch}),
    )  # fmt: skip
    learned.best_step = lambda: beside.best_step
    result = fit(
        model,
        stream,
        objective,
        optimizer,
        section,
        total_tokens=steps * stream.rows_per_rollout,
        batch_rows=stream.batch_rows,
        micro_batch_rows=2,
        folder=folder,
        seed=0,
        progress=progress or SilentProgress(),
        stop=stop or StopSignal(),
        learned=learned,
        alongside=beside,
    )
    return result, beside


def process(folder: Path, settings: dict[str, Any]) -> None:
    """What a process of its own does: train, and write down what came of it."""
    torch.set_num_threads(1)
    slow_s = settings.pop("slow_s", 0.0)

    def slowly(cases: Any) -> Scored:
        time.sleep(slow_s)  # so that a kill can fall into a rollout
        return likes_a(cases)

    result, beside = run(folder, reward=slowly, **settings)
    (folder / "result.json").write_text(
        json.dumps({**asdict(result), "sha256": sha256_file(folder / "model.safetensors"), "best": beside.best_step})
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics, without what depends on the clock and the machine."""
    measured = {"tokens_per_s", "seconds", "peak_bytes", "rollout_s", "update_s"}
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in measured} for row in found]
