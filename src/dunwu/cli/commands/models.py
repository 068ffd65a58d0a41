"""Models as files: in, out, smaller, looked at."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from dunwu.cli.given import Model, Revision, work


def import_(
    source: Annotated[str, Parameter(help="A Hugging Face folder, owner/name on a hub, a .gguf, or a llama2.c .bin.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The folder to make; default: models/NAME.")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="A llama2.c checkpoint's tokenizer, if not beside it.")] = None,
    revision: Revision = None,
) -> None:
    """Make a model of another project ready for use here: a folder with its weights, tokenizer and where it came from."""
    work("models").import_(source, out=out, tokenizer=tokenizer, revision=revision)


def export(
    model: Model,
    /,
    *,
    to: Annotated[
        Literal["hf", "gguf"], Parameter(help="A Hugging Face folder, or one GGUF file for llama.cpp.")
    ] = "hf",
    dtype: Annotated[
        str | None,
        Parameter(help="hf: f32, f16, bf16; default: as stored. gguf: also q8_0, q4_k_m and the like; default: f16."),
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="The folder or file to make; default: the model's name, in this folder.")
    ] = None,
    check: Annotated[
        bool, Parameter(help="Compare tokens, template, logits and 64 greedy tokens in the engine that will run it.")
    ] = True,
) -> None:
    """Write a model for other engines, and refuse to call it good where they would say something else."""
    work("exporting").export(model, to=to, dtype=dtype, out=out, check=check)


def quantise(
    model: Model,
    /,
    *,
    weights: Annotated[Literal["float", "int8", "int4"], Parameter(help="Bits of the matrices.")] = "int8",
    cache_kind: Annotated[Literal["float", "int8"], Parameter(help="Bits of keys and values.")] = "float",
    text: Annotated[
        Path | None, Parameter(help="A text to judge by; default: the documentation of this Python.")
    ] = None,
    windows: Annotated[
        int, Parameter(validator=validators.Number(gte=2), help="How many stretches of the text are read.")
    ] = 24,
) -> None:
    """Say what fewer bits save and cost: perplexity before and after on a text, size and speed. Nothing is written."""
    work("quantising").quantising(model, weights=weights, cache=cache_kind, text=text, windows=windows)


def inspect(
    model: Model,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="Print JSON.", negative="")] = False,
    revision: Revision = None,
) -> None:
    """Say what a model is: shape, parameters, memory, context, licence, template. Its config.json alone is enough."""
    work("models").inspect(model, as_json=as_json, revision=revision)
