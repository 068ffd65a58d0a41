"""`dunwu score` and `dunwu best`."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dunwu.align.baselines.best_of_n import Drawing, Drawn, curve, draw, passes
from dunwu.align.rewards import make_reward
from dunwu.cli import remote, talking
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.files import atomic_write
from dunwu.core.progress import TerminalProgress
from dunwu.core.recipe import PromptFileSource
from dunwu.core.records import Completion, Message
from dunwu.core.rewards import CodeReward, RewardSpec, reward_specs
from dunwu.core.screen import harmless
from dunwu.corpus.prompts import Prompt, PromptReader
from dunwu.evaluate.sandbox import walls
from dunwu.evaluate.scorers.base import Case
from dunwu.evaluate.scorers.summary import TOTAL, summary
from dunwu.evaluate.stats import Estimate

REASONS = ("stop", "length", "context")


def score(
    file: Path,
    rewards: Sequence[str],
    *,
    prompt: str,
    completion: str,
    answer: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print what the reward says of the answers in a file."""
    specs = reward_specs(rewards)
    reward = make_reward(specs)
    _warn(specs)
    reader = PromptReader(PromptFileSource(path=str(file), prompt=prompt, answer=answer), judged=completion)
    prompts = list(reader)
    cases = [(place, case) for place, one in enumerate(prompts) for case in _cases(one)]
    scored = reward([case for _, case in cases])
    found = summary(scored, [place for place, _ in cases])
    if out is not None:
        rows = [
            {
                "source": prompts[place].source,
                "prompt": case.prompt[-1].content,
                "completion": case.completion.text,
                TOTAL: total,
                **_parts(scored.parts, at),
            }
            for at, ((place, case), total) in enumerate(zip(cases, scored.totals, strict=True))
        ]
        _write(out, rows)
    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in found], ensure_ascii=False))
    else:
        print("\n".join(_line(one.name, Estimate(one.value, one.low, one.high, one.n)) for one in found))
    _tell(reader)


def best(
    model: str,
    prompt: str,
    rewards: Sequence[str],
    *,
    n: int,
    delta: str | None,
    registry: Path | None,
    any_base: bool,
    system: str | None,
    temperature: float,
    seed: int,
    max_tokens: int,
    out: Path | None,
    url: str | None,
    key_env: str,
) -> None:
    """Print the best answer to a prompt, or the curve over a file of prompts."""
    if temperature == 0 and n > 1:
        raise RecipeError(f"--temperature 0 gives one answer {n} times; give more, such as 1")
    specs = reward_specs(rewards)
    reward = make_reward(specs)
    _warn(specs)
    prompts = _prompts(prompt)
    if url is None:
        chat = nullcontext(talking.load(model, delta, registry=registry, any_base=any_base))
    else:
        chat = remote.endpoint(f"{model}:{delta}" if delta else model, url, key_env)
    how = Drawing(n=n, max_tokens=max_tokens, temperature=temperature, seed=seed)
    with chat as partner, TerminalProgress() as progress:
        said = getattr(partner, "system_prompt", "") if system is None else system
        drawn = list(draw(partner, [_with_system(one, said) for one in prompts], reward, how, progress))
    if out is not None:
        _write(out, [row for one in drawn for row in _rows(one)])
    print(harmless(drawn[0].completions[drawn[0].best].text) if _is_one(prompt) else _curves(drawn, reward.names))
    if _is_one(prompt):
        print("\n".join(_judgements(drawn[0])), file=sys.stderr)


def _warn(specs: Sequence[RewardSpec]) -> None:
    """Say what holds code that a model wrote, before it runs."""
    if any(isinstance(spec, CodeReward) for spec in specs):
        open_to = "" if walls().hold else "; it can read and write what you can: run it where that is harmless"
        print(f"Code of the answers runs with {'; '.join(walls().said())}{open_to}.", file=sys.stderr)


def _cases(prompt: Prompt) -> list[Case]:
    reason = prompt.columns.get("finish_reason")
    return [
        Case(
            prompt=prompt.messages,
            completion=Completion(text=text, ids=(), finish_reason=reason if reason in REASONS else "stop"),
            columns=prompt.columns,
        )
        for text in prompt.columns["completion"]
    ]


def _is_one(prompt: str) -> bool:
    """Whether it is a prompt itself, not the name of a file."""
    return "\n" in prompt or len(prompt) > 255 or not Path(prompt).is_file()


def _prompts(prompt: str) -> list[Prompt]:
    if not _is_one(prompt):
        return list(PromptReader(PromptFileSource(path=prompt)))
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise DataError("the prompt is empty; say what to answer")
    return [Prompt((Message(role="user", content=text),), {}, "prompt")]


def _with_system(prompt: Prompt, system: str) -> Prompt:
    if not system or prompt.messages[0].role == "system":
        return prompt
    return dataclasses.replace(prompt, messages=(Message(role="system", content=system), *prompt.messages))


def _curves(drawn: Sequence[Drawn], names: Sequence[str]) -> str:
    lines = [_line(f"best of {k}", estimate) for k, estimate in curve(drawn).items()]
    for name in names:
        lines += [_line(f"{name} pass@{k}", estimate) for k, estimate in (passes(drawn, name) or {}).items()]
    return "\n".join(lines)


def _judgements(drawn: Drawn) -> list[str]:
    return [
        f"{drawn.totals[place]:9.4g}  "
        + "  ".join(f"{name}={values[place]:.4g}" for name, values in drawn.parts.items())
        + f"  {harmless(drawn.completions[place].text.strip())[:60]!r}"
        for place in drawn.ranked()
    ]


def _rows(drawn: Drawn) -> list[dict[str, Any]]:
    messages = [{"role": message.role, "content": message.content} for message in drawn.prompt.messages]
    return [
        {
            "source": drawn.prompt.source,
            "messages": [*messages, {"role": "assistant", "content": drawn.completions[place].text}],
            "finish_reason": drawn.completions[place].finish_reason,
            TOTAL: drawn.totals[place],
            **_parts(drawn.parts, place),
        }
        for place in drawn.ranked()
    ]


def _parts(parts: Mapping[str, Sequence[float]], at: int) -> dict[str, float | None]:
    """Each part of one answer; null where it does not apply."""
    return {f"{TOTAL}.{name}": None if math.isnan(values[at]) else values[at] for name, values in parts.items()}


def _line(name: str, estimate: Estimate) -> str:
    interval = "" if math.isnan(estimate.low) else f"  [{estimate.low:.4g}, {estimate.high:.4g}]"
    return f"{name:<24} {estimate.value:9.4g}{interval}  {estimate.n:,} prompt{'s' * (estimate.n != 1)}"


def _write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_write(out) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))


def _tell(reader: PromptReader) -> None:
    if reader.dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in reader.dropped.most_common(4))
        print(f"{reader.dropped.total():,} rows left out ({reasons}); first: {reader.problems[0]}", file=sys.stderr)
