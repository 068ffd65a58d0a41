"""Judging answers by a reward, and choosing between several."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from dunwu.cli.given import AnyBase, AsJson, DeltaName, KeyEnv, MaxTokens, Model, Registry, Url, work

Rewards = Annotated[
    list[str],
    Parameter(
        name="--reward",
        help="How an answer is judged: exact, math, schema:FILE, length:TOKENS, model:FOLDER, function:FILE.py:NAME and others, "
        "0.1*length:200 for a weight, or JSON with all options. Give it once for each part.",
        negative="",
    ),
]


def score(
    file: Annotated[Path, Parameter(help="Rows with a prompt and an answer to it, or several: .jsonl, .json, .csv.")],
    /,
    *,
    reward: Rewards,
    completion: Annotated[str, Parameter(help="The key that holds the answer; auto finds a usual one.")] = "auto",
    prompt: Annotated[str, Parameter(help="The key that holds the prompt; auto finds a usual one.")] = "auto",
    answer: Annotated[str, Parameter(help="The key that holds what is right; auto finds a usual one.")] = "auto",
    out: Annotated[Path | None, Parameter(help="A .jsonl to write: each answer with its total and the parts.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge answers that a file holds: the mean of the reward and of each part, with an interval."""
    work("judging").score(file, reward, prompt=prompt, completion=completion, answer=answer, out=out, as_json=as_json)


def best(
    model: Model,
    prompt: Annotated[str, Parameter(help="What to answer, or a file of prompts: .jsonl, .json, .csv.")],
    /,
    *,
    reward: Rewards,
    n: Annotated[int, Parameter(validator=validators.Number(gte=1), help="How many answers to each prompt.")] = 8,
    delta: DeltaName = None,
    registry: Registry = None,
    any_base: AnyBase = False,
    system: Annotated[str | None, Parameter(help="Instructions that stand before the prompt.")] = None,
    temperature: Annotated[float, Parameter(help="1 follows the model's odds; the answers must differ.")] = 1.0,
    seed: Annotated[int, Parameter(help="The same seed gives the same answers.")] = 0,
    max_tokens: MaxTokens = 256,
    out: Annotated[
        Path | None, Parameter(help="A .jsonl to write: all answers with their scores, the best of each prompt first.")
    ] = None,
    url: Url = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Answer several times and print the answer that a reward likes best; of a file of prompts, what asking more often gives."""
    work("judging").best(
        model,
        prompt,
        reward,
        n=n,
        delta=delta,
        registry=registry,
        any_base=any_base,
        system=system,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        out=out,
        url=url,
        key_env=key_env,
    )
