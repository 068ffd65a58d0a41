"""Talking with a model."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dunwu.cli.given import (
    AnyBase,
    DeltaName,
    KeyEnv,
    MaxTokens,
    Model,
    Registry,
    Seed,
    Strategy,
    Temperature,
    Url,
    work,
)


def chat(
    model: Model,
    /,
    *,
    delta: DeltaName = None,
    registry: Registry = None,
    any_base: AnyBase = False,
    system: Annotated[str | None, Parameter(help="Instructions that stand before the conversation.")] = None,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    max_tokens: MaxTokens = 512,
    strategy: Strategy = None,
    url: Url = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Talk to a model. /help lists what can be changed on the way."""
    if url is not None:
        how = {"system": system, "temperature": temperature, "seed": seed, "max_tokens": max_tokens}
        name = f"{model}:{delta}" if delta else model
        work("remote").chat(name, url, key_env=key_env, strategy=strategy, **how)
        return
    work("talking").chat(
        model,
        delta=delta,
        registry=registry,
        any_base=any_base,
        system=system,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        strategy=strategy,
    )


def generate(
    model: Model,
    prompt: Annotated[str, Parameter(help="What to answer, or to continue; - reads it from standard input.")],
    /,
    *,
    delta: DeltaName = None,
    registry: Registry = None,
    any_base: AnyBase = False,
    system: Annotated[str | None, Parameter(help="Instructions that stand before the prompt.")] = None,
    raw: Annotated[bool, Parameter(help="Continue the text as it is, without the chat template.", negative="")] = False,
    schema: Annotated[
        Path | None, Parameter(help="A file with a JSON schema: the answer is JSON that it holds valid.")
    ] = None,
    regex: Annotated[str | None, Parameter(help="A regular expression that the whole answer matches.")] = None,
    choice: Annotated[
        list[str] | None, Parameter(help="What the answer may be; give it once for each choice.", negative="")
    ] = None,
    beams: Annotated[
        int | None, Parameter(help="Search for the likeliest answer with so many beams, instead of drawing one.")
    ] = None,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    max_tokens: MaxTokens = 256,
    strategy: Strategy = None,
    url: Url = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Answer one prompt, or continue it where the model was not tuned to answer.

    With --schema, --regex or --choice nothing but the answer, which keeps to it, goes to standard output.
    """
    if url is not None:
        how = {"system": system, "temperature": temperature, "seed": seed, "max_tokens": max_tokens, "schema": schema}
        for_this_machine = {"--raw": raw, "--regex": regex is not None, "--choice": choice is not None}
        for_this_machine["--beams"] = beams is not None
        name = f"{model}:{delta}" if delta else model
        work("remote").generate(name, url, prompt, key_env=key_env, refused=for_this_machine, strategy=strategy, **how)
        return
    work("talking").generate(
        model,
        prompt,
        delta=delta,
        registry=registry,
        any_base=any_base,
        system=system,
        raw=raw,
        schema=schema,
        regex=regex,
        choice=choice,
        beams=beams,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        strategy=strategy,
    )
