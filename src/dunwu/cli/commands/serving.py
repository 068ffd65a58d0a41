"""Serving models to others."""

from typing import Annotated, Literal

from cyclopts import Parameter

from dunwu.cli.commands.chains import AllowCode
from dunwu.cli.given import Registry, work
from dunwu.cli.serving_options import Listening, Writing


def serve(
    *models: Annotated[
        str,
        Parameter(
            help="A build's home, a model's folder or owner/name on a hub; NAME=… renames it. Or one gateway.yaml."
        ),
    ],
    delta: Annotated[
        tuple[str, ...],
        Parameter(
            help="A delta over the models: a name in the registry, or NAME=FOLDER of an adapter; clients ask for MODEL:NAME.",
            negative="",
        ),
    ] = (),
    deltas: Annotated[
        Literal["none", "all"],
        Parameter(help="all: every delta of the registry that was trained on one of the models, new ones too."),
    ] = "none",
    strategy: Annotated[
        tuple[str, ...],
        Parameter(
            help="A prompt strategy around the models, such as cot or careful=cot+self-consistency:n=8; clients ask for MODEL:NAME.",
            negative="",
        ),
    ] = (),
    chain: Annotated[
        tuple[str, ...],
        Parameter(
            help="A chain of prompts in YAML, or NAME=FILE, that asks the models; clients ask for MODEL:NAME.",
            negative="",
        ),
    ] = (),
    allow_code: AllowCode = False,
    registry: Registry = None,
    listening: Listening | None = None,
    writing: Writing | None = None,
) -> None:
    """Serve models to any OpenAI client, and a page to talk to them, until Ctrl-C."""
    work("serving").serve(
        models,
        listening or Listening(),
        writing or Writing(),
        delta=delta,
        deltas=deltas,
        strategy=strategy,
        chain=chain,
        allow_code=allow_code,
        registry=registry,
    )
