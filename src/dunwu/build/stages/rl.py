"""Reinforcement learning, from the weights that the stages before left, or a base's: a model that earns more of a reward.

One model answers and learns, in one process: what it is asked, what it answered and how that was judged lies beside the
checkpoints. A doctor looks at every step and ends a run that is lost.

Facts: those of `TrainResult` and of `Asking`, and `algorithm`, `rewards`, `completions`, `answer_tokens`, `rollouts`; `held_out`,
what the reward says before and after on prompts that were kept out, paired; `kept` and `kept_step`, whose weights are the result;
`findings` of the doctor, and `lost`; with a delta those of a delta; without a corpus `speed`.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dunwu.align.answers import Item
from dunwu.align.baselines.distillation import load_teacher
from dunwu.align.doctor.doctor import Doctor
from dunwu.align.objectives.policy import PolicyObjective
from dunwu.align.policy_learned import PolicyLearned
from dunwu.align.policy_run import METRICS, PolicyRun, RunSettings
from dunwu.align.reading import Floats, Precision, logprobs_of_tokens, read_tokens
from dunwu.align.reference import without_deltas
from dunwu.align.reward.disk import load_reward_model
from dunwu.align.rewards import make_reward
from dunwu.align.rollout import Sampler, Sampling, affordable_at_once
from dunwu.align.rollout_stream import RolloutStream, Text
from dunwu.align.value import ValueModel
from dunwu.build.asking import Asking, load_asking
from dunwu.build.base import require_chat
from dunwu.build.budget import MICRO_BATCH_TOKENS
from dunwu.build.diagnosis import rl_config
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.inputs import rl_inputs
from dunwu.build.learn import TUNING_SHARE, copy_beside, delta_rate, freeze, gpu_peak, learn, peak_rates, without_unused
from dunwu.build.meters import resident_bytes
from dunwu.build.origin import Start, origin, start
from dunwu.build.stages.prefer import row_wise, system_prompt
from dunwu.build.stages.sft import NOT_IN_THE_RESULT, attached_delta, settle, stop_ids
from dunwu.build.stages.tokenizer import SHARDS
from dunwu.build.training import RL_SHARE, SAFETY, after_training_s
from dunwu.core.devices import pick_device, pick_dtype, prepare_cpu
from dunwu.core.errors import RecipeError
from dunwu.core.lineage import stable_hash
from dunwu.core.policy import ChoosingSpec, DistillSpec, PolicySpec, PpoSpec
from dunwu.core.recipe import Recipe, RlSection
from dunwu.core.rewards import LengthReward, ModelReward
from dunwu.core.units import parse_duration
from dunwu.corpus.shards import TokenShards
from dunwu.corpus.stream import PretrainStream
from dunwu.evaluate.stats import paired_difference
from dunwu.model.blocks.rotary import depends_on_length
from dunwu.model.count import parameters, train_flops_per_token
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.learned import Deltas, WholeModel
from dunwu.train.loop import TrainResult

RATE_SHARE, RATE_SHARE_OF_OTHERS = 0.5, 0.1
"""Of the rates of fine-tuning. The first is what the small world wants (docs/log.md), of models that dunwu grew; those of others
learned far more text, and are moved with care: unmeasured."""
PROMPTS, COMPLETIONS, COMPLETIONS_WITH_VALUES, MOST_ANSWER, LEAST_STEPS, MOST_STEPS, LOOKS = 16, 8, 4, 256, 20, 100, 10
TEXT_ROWS = 4  # of pre-training for each update, with algorithm.pretraining
PROMPT_TOKENS = 64  # of a prompt, before any was read
AT_ONCE = 256  # answers that are written at a time


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    section = without_unused(recipe.rl.model_dump(mode="json", exclude=NOT_IN_THE_RESULT))
    for named in (*section["sources"], *section["rewards"]):  # what the files hold counts, not where they lie
        for key in ("path", "file"):
            named.pop(key, None)
    section["algorithm"].pop("teacher", None)
    settings: dict[str, Any] = {"rl": section, "seed": recipe.seed, "system_prompt": recipe.sft.system_prompt}
    settings["exam_questions"] = recipe.evaluate.exam_questions  # none of them is asked
    if recipe.only_tunes:
        settings["context_length"] = recipe.model.context_length
    if recipe.rl.steps == "auto":
        settings["budget_s"] = parse_duration(recipe.budget)
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    recipe, section = outlook.recipe, outlook.recipe.rl
    if recipe.base:
        require_chat(recipe, outlook.facts["base"]["chat_fault"])
    begin = start(outlook, section)
    context = begin.context_length
    chosen = _choices(section, context)
    step_s = _step_seconds(section.algorithm, begin, chosen)
    steps = section.steps if section.steps != "auto" else _affordable_steps(outlook, begin, step_s)
    grown = begin.rate_share >= TUNING_SHARE
    share = begin.rate_share * (RATE_SHARE if grown else RATE_SHARE_OF_OTHERS)
    lr_muon, lr_adamw = peak_rates(section, begin.config, scale=share)
    lr_values = lr_adamw
    if section.delta is not None:
        lr_adamw = delta_rate(section, begin.config, scale=share)
    group = PROMPT_TOKENS + chosen["completions"] * chosen["answer_tokens"]
    resolved: dict[str, Any] = {
        **chosen,
        "steps": steps,
        "batch_rows": chosen["prompts"] // section.algorithm.minibatches,
        "micro_batch_rows": max(1, MICRO_BATCH_TOKENS[pick_device().type] // group),
        "eval_every": _eval_every(section, steps),
        "lr_muon": lr_muon,
        "lr_adamw": lr_adamw,
        "lr_values": lr_values * getattr(section.algorithm, "value_lr", 1.0),
        "context_length": context,
        "speed": asdict(begin.speed),
    }
    tokens = steps * chosen["prompts"] * chosen["completions"] * chosen["answer_tokens"] // 2
    models = 1 + section.algorithm.wants_values
    return Forecast(
        resolved=resolved,
        predicted=Figures(
            seconds=steps * step_s,
            peak_bytes=resident_bytes()
            + models * begin.peak_bytes(max(1, MICRO_BATCH_TOKENS["cpu"] // context), section),
            parameters=parameters(begin.config),
            tokens=tokens,
            flops=tokens * train_flops_per_token(begin.config, context, frozen=begin.tuned is not None),
        ),
        facts={"tokens": tokens, "speed": asdict(begin.speed), "context_length": context},
        note=f"{section.algorithm.name}: {steps:,} rollouts of {chosen['prompts']} prompts with {chosen['completions']} answers "
        f"of at most {chosen['answer_tokens']} tokens",
    )


def _choices(section: RlSection, context: int) -> dict[str, int]:
    spec = section.algorithm
    answers = COMPLETIONS_WITH_VALUES if spec.wants_values else COMPLETIONS
    prompts = spec.minibatches * max(1, PROMPTS // spec.minibatches)
    return {
        "prompts": prompts if section.prompts == "auto" else section.prompts,
        "completions": answers if section.completions == "auto" else section.completions,
        "answer_tokens": min(MOST_ANSWER, context // 2) if section.answer_tokens == "auto" else section.answer_tokens,
    }


def _step_seconds(spec: PolicySpec, begin: Start, chosen: Mapping[str, int]) -> float:
    """Of a rollout with its updates: answers of half the length that they may have, written at about the speed of training; each
    further model reads them for a third of what learning from them takes. Of the rounds in which prompts are replaced, half."""
    rounds = spec.most_rounds if isinstance(spec, ChoosingSpec) and spec.dynamic_sampling else 1
    answers = chosen["prompts"] * chosen["completions"] * chosen["answer_tokens"] / 2
    read = answers + chosen["prompts"] * PROMPT_TOKENS
    learning = spec.epochs * (2 if spec.wants_values else 1)
    reading = (spec.wants_reference + spec.wants_values + (spec.updates > 1 or spec.wants_values)) / 3
    return (
        answers * (1 + rounds) / 2 + read * (learning + reading)
    ) * begin.speed.token_s + spec.updates * begin.speed.step_s


def _affordable_steps(outlook: Outlook, begin: Start, step_s: float) -> int:
    """As many as fit into the share of the budget, or into what is left of it, but so many that something can be learned."""
    budget_s = parse_duration(outlook.recipe.budget)
    after_s = after_training_s(outlook, begin.speed, still=())
    left_s = min(RL_SHARE * budget_s, budget_s - outlook.predicted_s - after_s)
    if outlook.recipe.only_tunes:
        left_s = budget_s - outlook.predicted_s - after_s
    return max(LEAST_STEPS, min(MOST_STEPS, int(left_s * SAFETY / step_s)))


def _eval_every(section: RlSection, steps: int) -> int:
    if section.eval_every != "auto":
        return section.eval_every
    return max(1, math.ceil(steps * section.algorithm.updates / LOOKS))


def _run(work: Work) -> Outcome:
    prepare_cpu()
    recipe, section, chosen = work.recipe, work.recipe.rl, work.resolved
    begin = origin(work)
    tokenizer = load_tokenizer(begin.tokenizer)
    device = pick_device()
    model = load_model(begin.model, device=device, dtype=torch.float32, mapped=False)
    stops = stop_ids(tokenizer, model.config)
    model.config = dataclasses.replace(model.config, eos_token_id=stops)
    most_prompt = begin.context_length - chosen["answer_tokens"]
    asking = load_asking(recipe, tokenizer, most_prompt, work.progress, system_prompt=system_prompt(work))
    work.progress.start(RL.title)
    freeze(model, section.freeze, "rl")
    deltas = attached_delta(model, recipe, section.delta)
    stream = _stream(work, model, deltas, asking)
    values = _values(work, begin.model, section.algorithm) if isinstance(section.algorithm, PpoSpec) else None
    objective = PolicyObjective(section.algorithm, values=values)
    learned = PolicyLearned(deltas or WholeModel(model), values, work.folder / "checkpoints" / "best", work.progress)
    run = _policy_run(work, begin.model, model, tokenizer, asking, deltas, stream, objective, learned)
    if section.keep == "best" and asking.held_out and section.rewards:
        learned.best_step = lambda: run.best_step
    result = learn(
        work,
        model,
        stream,
        section,
        total_tokens=chosen["steps"] * stream.rows_per_rollout,
        deltas=deltas,
        objective=objective,
        alongside=run,
        values=values,
        result=learned,
    )
    work.progress.start("Answering prompts that were kept out")
    after = run.held_out_totals()
    of_delta = {} if deltas is None else settle(model, deltas, work.folder)
    copy_beside(work.folder, tokenizer, begin.tokenizer, begin.model, stops)
    return _outcome(work, model, asking, run, learned, result, after, of_delta)


def _policy_run(
    work: Work,
    folder: Path,
    model: Decoder,
    tokenizer: TokenizerLike,
    asking: Asking,
    deltas: Deltas | None,
    stream: RolloutStream,
    objective: PolicyObjective,
    learned: PolicyLearned,
) -> PolicyRun:
    """Who asks the model, which began as the one in `folder`, has its answers judged, and looks on."""
    section, chosen = work.recipe.rl, work.resolved
    precision = _precision(section, model.head_weight.device)
    teacher = _teacher(section, tokenizer, asking, chosen)
    # A teacher alone: nothing is judged, and what is said of that is 0.
    judging = section.rewards or (LengthReward(most=chosen["answer_tokens"]),)
    return PolicyRun(
        model,
        stream,
        objective,
        Sampler(
            model,
            tokenizer,
            most_prompt=asking.longest,
            most_answer=chosen["answer_tokens"],
            at_once=affordable_at_once(model, asking.longest + chosen["answer_tokens"], AT_ONCE),
        ),
        make_reward(judging, reward_model=work.needs.get("reward")),
        asking.learned,
        asking.held_out,
        RunSettings(
            prompts=chosen["prompts"],
            completions=chosen["completions"],
            sampling=Sampling(
                temperature=section.temperature, top_p=section.top_p, top_k=section.top_k, min_p=section.min_p
            ),
            eval_every=chosen["eval_every"],
            seed=work.recipe.seed,
            folder=work.folder,
            key=stream.fingerprint,
        ),
        work.progress,
        reference=_reference(folder, model, deltas, stream, precision, teacher),
        values=objective.values,
        precision=precision,
        keep_best=learned.keep_best,
        watch=_watch(section, chosen),
    )


def _outcome(
    work: Work,
    model: Decoder,
    asking: Asking,
    run: PolicyRun,
    learned: PolicyLearned,
    result: TrainResult,
    after: Sequence[float],
    of_delta: Mapping[str, Any],
) -> Outcome:
    section, chosen = work.recipe.rl, work.resolved
    tokens = _answered_tokens(work.folder / METRICS, chosen["prompts"] * chosen["completions"])
    kept = result.steps if learned.saved_step is None else learned.saved_step
    flops = tokens * train_flops_per_token(model.config, asking.longest + chosen["answer_tokens"])
    return Outcome(
        facts={
            **asdict(result),
            **asking.facts,
            **of_delta,
            "tokens": tokens,
            "algorithm": section.algorithm.model_dump(mode="json"),
            "rewards": [reward.model_dump(mode="json") for reward in section.rewards],
            "completions": chosen["completions"],
            "answer_tokens": chosen["answer_tokens"],
            "rollouts": math.ceil(result.steps / section.algorithm.updates),
            "held_out": _change(run.start_scores, after),
            "kept": "best" if learned.saved_step is not None else "last",
            "kept_step": kept,
            "findings": [_told(finding) for finding in run.findings],
            "lost": run.over,
            "parameters": parameters(model.config),
            "model": asdict(model.config),
            "context_length": work.resolved["context_length"],
            "speed": work.resolved["speed"],
        },
        actual=Figures(
            seconds=result.seconds,
            peak_bytes=gpu_peak(result),
            parameters=parameters(model.config),
            tokens=tokens,
            flops=flops,
        ),
    )


def _told(finding: Any) -> dict[str, Any]:
    return {key: getattr(finding, key) for key in ("name", "step", "severity", "says", "try_")}


def _change(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Mean scores before and after, and the mean change of a prompt with its interval."""
    if not before:
        return {}
    change = paired_difference(before, after)._asdict()
    told = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in change.items()}
    return {"before": float(np.mean(before)), "after": float(np.mean(after)), "change": told}


def _answered_tokens(metrics: Path, answers: int) -> int:
    """Of all answers that the metrics know of."""
    rows = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    return round(sum(row["answer_tokens"] * answers for row in rows if row.get("rollout_s")))


def _stream(work: Work, model: Decoder, deltas: Deltas | None, asking: Asking) -> RolloutStream:
    section, chosen, seed = work.recipe.rl, work.resolved, work.recipe.seed
    text = None
    if section.algorithm.pretraining:
        shards = TokenShards.open(work.needs["tokenizer"] / SHARDS)
        text = Text(stream=PretrainStream(shards, context_length=chosen["context_length"], seed=seed), rows=TEXT_ROWS)
    return RolloutStream(
        section.algorithm,
        prompts=chosen["prompts"],
        most_tokens=chosen["answer_tokens"],
        seed=seed,
        share=section.share_prompts and not depends_on_length(model.config) and row_wise(deltas),
        text=text,
        fingerprint=stable_hash(
            [[list(one.ids) for one in asking.learned], chosen["completions"], section.temperature, section.top_p,
             section.top_k, section.min_p, [reward.model_dump(mode="json") for reward in section.rewards]]
        ),
    )  # fmt: skip


def _reference(
    folder: Path,
    model: Decoder,
    deltas: Deltas | None,
    stream: RolloutStream,
    precision: Precision,
    teacher: Decoder | None = None,
) -> Callable[[Sequence[Item]], Floats] | None:
    """What the model as it was says to answers: the model without its delta, or a second one; or a teacher."""
    if not stream.spec.wants_reference:
        return None
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    if teacher is not None:
        before = teacher
    elif deltas is None:
        before = load_model(folder, device=next(model.parameters()).device, dtype=torch.float32).requires_grad_(False)
    else:
        before, around = model, lambda: without_deltas(model)

    def read(items: Sequence[Item]) -> Floats:
        with around():
            return read_tokens(
                before, items, lambda batch: logprobs_of_tokens(before, batch), share=stream.share, precision=precision
            )

    return read


def _teacher(section: RlSection, tokenizer: TokenizerLike, asking: Asking, chosen: Mapping[str, Any]) -> Decoder | None:
    if not isinstance(section.algorithm, DistillSpec):
        return None
    tokens = asking.longest + chosen["answer_tokens"]
    return load_teacher(Path(section.algorithm.teacher), tokenizer, device=pick_device(), tokens=tokens)


def _values(work: Work, folder: Path, spec: PpoSpec) -> ValueModel:
    """A value model that begins as the reward model of this build (arXiv:2203.02155 section 3.5), or as the policy, saying 0.

    A reward model that does not count speaks on another scale: its values would lead the first rollouts astray.
    """
    device, rewards = pick_device(), work.needs.get("reward")
    counts = any(isinstance(one, ModelReward) and not one.path and one.weight for one in work.recipe.rl.rewards)
    if spec.value_from == "reward" and rewards is None:
        raise RecipeError(
            "rl.algorithm.value_from=reward: this build has no reward model; give reward.sources, or set it to policy"
        )
    if spec.value_from == "policy" or rewards is None or (spec.value_from == "auto" and not counts):
        return ValueModel(load_model(folder, device=device, dtype=torch.float32, mapped=False))
    model = load_reward_model(rewards, device=device, dtype=torch.float32)
    return ValueModel(model.decoder, model.head.score.weight.detach().mean(0))


def _precision(section: RlSection, device: torch.device) -> Precision:
    """What training computes in."""
    dtype = pick_dtype(device, section.dtype)
    return nullcontext if dtype == torch.float32 else lambda: torch.autocast(device.type, dtype)


def _watch(section: RlSection, chosen: Mapping[str, Any]) -> Callable[[Iterable[Mapping[str, Any]]], Doctor]:
    config = rl_config(section, chosen)
    return lambda rows: Doctor.after(rows, config)


RL = Stage(
    name="rl",
    title="Learning from rewards",
    version="1",
    needs=("base", "tokenizer", "pretrain", "sft", "prefer", "reward"),
    settings=_settings,
    inputs=rl_inputs,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: bool(recipe.rl.sources),
)
