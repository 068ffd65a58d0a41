"""`dunwu build`, `plan`, `status` and `explain`."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from dunwu.align.measure import NAMES
from dunwu.build.explain import explain_stage
from dunwu.build.graph import lay_out
from dunwu.build.home import ADAPTER, Home, StageRecord, last_trained
from dunwu.build.plan import make_plan, plan_table
from dunwu.build.registry import STAGES
from dunwu.build.run import run_build
from dunwu.cli.failures import crash_log
from dunwu.cli.target import BUILDS, resolve
from dunwu.core.devices import prepare_cpu
from dunwu.core.errors import BuildError, DunwuError
from dunwu.core.progress import TerminalProgress
from dunwu.core.recipe import Recipe
from dunwu.core.screen import harmless
from dunwu.core.units import format_count, format_duration


def build(words: Sequence[str]) -> None:
    """Build, and say what came of it."""
    began_s = psutil.Process().create_time()
    recipe, home = resolve(words)
    prepare_cpu()
    with crash_log(home.logs), TerminalProgress() as progress:
        records = run_build(STAGES, recipe, home, progress, began_s=began_s)
    print(_finished(recipe, home, records, time.time() - began_s))


def plan(words: Sequence[str]) -> None:
    """Print the plan."""
    recipe, home = resolve(words)
    prepare_cpu()
    Console(highlight=False).print(plan_table(make_plan(STAGES, recipe, home), recipe, home))


def status(words: Sequence[str]) -> None:
    """Print how far one build is, or all below ./builds."""
    if words:
        print(_status(*resolve(words)))
        return
    homes = sorted(folder for folder in BUILDS.glob("*") if Home(folder).exists()) if BUILDS.is_dir() else []
    if not homes:
        raise BuildError(f"there is no build below {BUILDS.absolute()}; begin one with `dunwu build`, or name a home")
    print("\n\n".join(_status_or_why_not(folder) for folder in homes))


def explain(stage: str, words: Sequence[str]) -> None:
    """Print why a stage would run."""
    recipe, home = resolve(words)
    print(harmless(explain_stage(STAGES, stage, recipe, home)))


def _status_or_why_not(folder: Path) -> str:
    """One of many: documents that moved away hide neither this home nor the others."""
    try:
        return _status(*resolve([str(folder)]))
    except DunwuError as error:
        return harmless(f"{folder}\n  {error}")


def _status(recipe: Recipe, home: Home) -> str:
    lines = [str(home.folder)]
    for step in lay_out(STAGES, recipe, home):
        took = format_duration(step.record.actual.seconds or 0.0) if step.record else ""
        state = f"done in {took}, {step.record.finished}" if step.record else f"to do: {step.reason}"
        lines.append(f"  {step.stage.name:<10} {state}")
    return "\n".join(lines)


def _finished(recipe: Recipe, home: Home, records: Mapping[str, StageRecord], seconds: float) -> str:
    if recipe.only_scores:
        return _finished_reward_model(recipe, home, records, seconds)
    trained = last_trained(records)
    answers = bool({"sft", "prefer", "rl"} & records.keys()) or (
        "base" in records and bool(records["base"].facts.get("instruction_tuned"))
    )
    return "\n".join(
        [
            f"\nfinished in {format_duration(seconds)} (budget {recipe.budget})",
            f"model    {home.model}  ({format_count(trained.facts['parameters'])} parameters)",
            *_adapter_line(recipe, home, trained),
            f"report   {home.report}",
            *_scores_line(records["evaluate"].facts),
            *_preference_line(records),
            *_reward_model_lines(home, records),
            *_reward_line(records),
            f"try it:  dunwu {_command(home, records, answers)}",
        ]
    )


def _finished_reward_model(recipe: Recipe, home: Home, records: Mapping[str, StageRecord], seconds: float) -> str:
    return "\n".join(
        [
            f"\nfinished in {format_duration(seconds)} (budget {recipe.budget})",
            *_reward_model_lines(home, records),
            f"report   {home.report}",
            f"try it:  dunwu reward score {home.folder} FILE",
        ]
    )


def _reward_model_lines(home: Home, records: Mapping[str, StageRecord]) -> list[str]:
    """Where the reward model lies, and how often it is right on what it did not learn."""
    if "reward" not in records:
        return []
    facts = records["reward"].facts
    share = facts["held_out_measures"].get("scores", {}).get("accuracy")
    lines = [f"reward   {home.reward}  ({format_count(facts['parameters'])} parameters)"]
    if share:
        lines.append(
            f"judgements that it did not learn: right in {share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}] "
            f"of {share['n']}"
        )
    return lines


def _adapter_line(recipe: Recipe, home: Home, trained: StageRecord) -> list[str]:
    facts, section = trained.facts, {"prefer": recipe.prefer, "rl": recipe.rl}.get(trained.stage, recipe.sft)
    if "delta" not in facts:
        return []
    within = section.delta_merged and facts.get("merged", True)
    merged = "merged into the model" if within else "the model has the base's weights"
    count = format_count(facts["tuned_parameters"])
    return [f"adapter  {home.model / ADAPTER}  ({facts['delta']['method']}, {count} numbers; {merged})"]


def _scores_line(facts: Mapping[str, Any]) -> list[str]:
    scores: Mapping[str, Any] = facts["scores"]
    if "answers" in facts:
        before, after = (scores[f"{stage} answers"]["value"] for stage in ("base", "sft"))
        change = facts["answers"]
        return [
            f"answers that it did not learn: {before:.3f} → {after:.3f} bits a token, change {change['value']:+.3f} "
            f"[{change['low']:+.3f}, {change['high']:+.3f}] over {change['n']} conversations"
        ]
    bits = {name: score["value"] for name, score in scores.items() if score["unit"] == "bits/byte"}
    figures = ", ".join(f"{name.replace(' bits_per_byte', '')} {value:.3f}" for name, value in bits.items())
    return [f"held-out bits per byte: {figures}"] if figures else []


def _preference_line(records: Mapping[str, StageRecord]) -> list[str]:
    """How often the better answer of pairs that were kept out is preferred."""
    preference = records["prefer"].facts.get("preference") if "prefer" in records else None
    if not preference:
        return []
    before, after, reward = (preference["scores"][name] for name in NAMES)
    return [
        f"pairs that it did not learn: the better answer gained more in {reward['value']:.1%} [{reward['low']:.1%}, "
        f"{reward['high']:.1%}] of {reward['n']}; likelier in {before['value']:.1%} before and {after['value']:.1%} after"
    ]


def _reward_line(records: Mapping[str, StageRecord]) -> list[str]:
    """What reinforcement learning did to the answers to prompts that were kept out."""
    told = records["rl"].facts["held_out"] if "rl" in records else None
    if not told:
        return []
    change = told["change"]
    return [
        f"reward on prompts that it did not learn: {told['before']:.3f} → {told['after']:.3f}, change {change['value']:+.3f} "
        f"[{change['low']:+.3f}, {change['high']:+.3f}] over {change['n']} prompts"
    ]


def _command(home: Home, records: Mapping[str, StageRecord], answers: bool) -> str:
    if answers:
        return f"chat {home.folder}"
    languages: Mapping[str, int] = records["corpus"].facts["bytes_by_language"]
    opening = "从前" if languages.get("zh", 0) > sum(languages.values()) / 2 else "Once upon a time"
    return f'generate {home.folder} "{opening}"'
