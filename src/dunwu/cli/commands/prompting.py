"""Prompts that are measured: search, and the score by number of demonstrations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from dunwu.cli.given import AsJson, KeyEnv, work

prompter = App(
    name="prompt",
    help="Find a better prompt, and measure what demonstrations do.",
    help_format="plaintext",
)
Questions = Annotated[
    str, Parameter(help="A file of questions and answers (JSON rows or a table), or the name or YAML of a task.")
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asking:
    """Who is asked what, and how answers are judged."""

    model: Annotated[
        str,
        Parameter(name="--with", help="Who answers: a build's home, a model's folder, owner/name on a hub; see --url."),
    ]
    url: Annotated[
        str | None,
        Parameter(help="An OpenAI-compatible endpoint, such as http://HOST:8000/v1; --with is a model's name there."),
    ] = None
    key_env: KeyEnv = "OPENAI_API_KEY"
    strategy: Annotated[
        str, Parameter(help="How each question is asked: direct, cot, self-consistency:n=8, cot+self-consistency, …")
    ] = "direct"
    reward: Annotated[
        tuple[str, ...],
        Parameter(
            help="How answers in a file are judged, such as exact or math; default: the final answer is the same.",
            negative="",
        ),
    ] = ()
    data: Annotated[Path | None, Parameter(help="With a task: the folder or file that holds its questions.")] = None
    most: Annotated[
        int | None, Parameter(validator=validators.Number(gte=1), help="At most so many questions, the first ones.")
    ] = None
    max_tokens: Annotated[
        int | None,
        Parameter(
            validator=validators.Number(gte=1), help="The most tokens of one answer; default: 256, or the task's."
        ),
    ] = None
    seed: Annotated[int, Parameter(help="Of all that is drawn.")] = 0


@prompter.command(name="search")
def prompt_search(
    questions: Questions,
    /,
    *,
    asking: Asking,
    out: Annotated[Path, Parameter(help="The file of the best prompt, for --strategy prompted:file=OUT.")] = Path(
        "prompt.json"
    ),
    proposer: Annotated[
        str | None, Parameter(help="Who proposes instructions, a model of this machine; default: who answers.")
    ] = None,
    instructions: Annotated[
        int, Parameter(validator=validators.Number(gte=0, lte=100), help="Instructions to propose.")
    ] = 4,
    sets: Annotated[
        int, Parameter(validator=validators.Number(gte=0, lte=100), help="Sets of demonstrations to try.")
    ] = 4,
    demonstrations: Annotated[
        int, Parameter(name="--k", validator=validators.Number(gte=0, lte=64), help="Demonstrations of a set.")
    ] = 3,
    candidates: Annotated[
        int, Parameter(validator=validators.Number(gte=1, lte=1000), help="Prompts to try, beside the plain one.")
    ] = 12,
) -> None:
    """Try prompts on one part of the questions; say what the best one gains on a part that it was not chosen by."""
    settings = {
        "instructions": instructions,
        "shot_sets": sets,
        "k": demonstrations,
        "candidates": candidates,
        "seed": asking.seed,
    }
    work("prompting").search(questions, asking, out=out, proposer=proposer, **settings)


@prompter.command(name="curve")
def prompt_curve(
    questions: Questions,
    /,
    *,
    asking: Asking,
    demonstrations: Annotated[
        str,
        Parameter(help="How they are chosen: random, balanced, similar, diverse; such as similar:order=best-first."),
    ] = "random",
    ks: Annotated[str, Parameter(name="--k", help="How many, by commas.")] = "0,1,2,4",
    draws: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=50), help="Draws of each number.")] = 1,
    pool: Annotated[
        Path | None, Parameter(help="A file of demonstrations; default: a fifth of the questions, which are not asked.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The score by number of demonstrations, with 95% intervals."""
    work("prompting").curve(
        questions, asking, demonstrations=demonstrations, ks=ks, draws=draws, pool=pool, as_json=as_json
    )
