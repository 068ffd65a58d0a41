"""The options that all of `dunwu make` has; free of torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Making:
    """What all ways to make data have in common."""

    model: Annotated[
        str,
        Parameter(
            name="--with", help="Who makes it: a build's home, a model's folder, owner/name on a hub; see --url."
        ),
    ]
    url: Annotated[
        str | None,
        Parameter(help="An OpenAI-compatible endpoint, such as http://HOST:8000/v1; --with is a model's name there."),
    ] = None
    key_env: Annotated[str, Parameter(help="With --url: the environment's variable that holds the endpoint's key.")] = (
        "OPENAI_API_KEY"
    )
    out: Annotated[Path, Parameter(help="The file of rows; what was answered is kept beside it, in OUT.making.")] = (
        Path("made.jsonl")
    )
    rows: Annotated[str, Parameter(help="How many rows, such as 500 or 10k.")] = "500"
    language: Annotated[str, Parameter(help="en, zh or another code; auto: that of what it is made of.")] = "auto"
    budget_tokens: Annotated[
        str | None, Parameter(help="The most tokens, read and written, in all runs: 200k, 1.5M.")
    ] = None
    budget_time: Annotated[str | None, Parameter(help="The longest that this run may ask: 30min, 2h.")] = None
    budget_cost: Annotated[float | None, Parameter(help="The most money, in the currency of --price, in all runs.")] = (
        None
    )
    price: Annotated[str | None, Parameter(help="Of a million tokens, read and written, such as 0.5,1.5.")] = None
    temperature: Annotated[
        float | None, Parameter(help="Of the steps that invent; default: each step's own, 0.7 to 1.")
    ] = None
    max_tokens: Annotated[int, Parameter(validator=validators.Number(gte=8), help="The most tokens of one answer.")] = (
        512
    )
    seed: Annotated[int, Parameter(help="Of what is drawn, and of the model's answers.")] = 0
    similar: Annotated[
        float | None,
        Parameter(help="ROUGE-L from which a question is a near-duplicate; default: 0.7, of documents 0.9."),
    ] = None
    decontaminate: Annotated[
        tuple[Path, ...],
        Parameter(
            help="A file of evaluation questions, with which no row may have a run of words in common.", negative=""
        ),
    ] = ()
    json: Annotated[bool | None, Parameter(help="Hold answers to a JSON schema; default: where the model can.")] = None
    at_a_time: Annotated[int, Parameter(help="Requests under way; the rows do not depend on it.")] = 4
    anew: Annotated[
        bool,
        Parameter(help="OUT was made with other settings: make it anew, from its answers where they fit.", negative=""),
    ] = False
