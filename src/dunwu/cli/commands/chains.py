"""Chains of prompts: running one, and looking at what it did."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from dunwu.cli.given import AsJson, KeyEnv, work

chainer = App(name="chain", help="Run chains of prompts, and look at what each step did.", help_format="plaintext")
AllowCode = Annotated[
    bool,
    Parameter(help="Let the chain's file name functions of Python files beside it, whose code is run.", negative=""),
]
ChainFile = Annotated[Path, Parameter(help="A chain in YAML.")]


@chainer.command(name="run")
def chain_run(
    file: ChainFile,
    *values: Annotated[str, Parameter(help="What it is given: NAME=TEXT, or NAME=@FILE for what a file holds.")],
    model: Annotated[
        str | None, Parameter(help="Who answers: a build's home, a model's folder, owner/name on a hub; see --url.")
    ] = None,
    url: Annotated[
        str | None,
        Parameter(help="An OpenAI-compatible endpoint, such as http://HOST:8000/v1; --model is a model's name there."),
    ] = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
    rows: Annotated[
        Path | None,
        Parameter(help="Many items instead: a .jsonl of objects with the names; a line is printed for each."),
    ] = None,
    temperature: Annotated[float, Parameter(help="For steps that say nothing else.")] = 0.0,
    seed: Annotated[int | None, Parameter(help="For steps that say nothing else.")] = None,
    max_tokens: Annotated[
        int, Parameter(validator=validators.Number(gte=1), help="Of each answer, for steps that say nothing else.")
    ] = 256,
    trace: Annotated[
        Path | None, Parameter(help="Where to write what each step did: a .json, or a page as .html.")
    ] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Run a chain and print its answer, as it is written where the last step asks a model."""
    work("chaining").run(
        file,
        values,
        model=model,
        url=url,
        key_env=key_env,
        rows=rows,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        trace=trace,
        allow_code=allow_code,
        as_json=as_json,
    )


@chainer.command(name="trace")
def chain_trace(
    file: Annotated[Path, Parameter(help="A trace in JSON, as `dunwu chain run --trace FILE.json` writes it.")],
    *,
    page: Annotated[Path | None, Parameter(help="Write it as a page (.html) instead of printing it.")] = None,
) -> None:
    """Show what each step of a run did: time, tokens, retries, what it gave."""
    work("chaining").show_trace(file, page=page)


@chainer.command(name="show")
def chain_show(file: ChainFile, *, allow_code: AllowCode = False) -> None:
    """Check a chain and print its steps: what each takes and gives."""
    work("chaining").show(file, allow_code=allow_code)
