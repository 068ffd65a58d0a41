"""Measuring a model on tasks, and comparing two."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from dunwu.cli.evaluating_options import Evaluating
from dunwu.cli.given import AnyBase, AsJson, DeltaName, KeyEnv, Model, Registry, Url, work

Positive = validators.Number(gte=1)


def evaluate(
    model: Model,
    /,
    *,
    tasks: Annotated[
        list[str],
        Parameter(
            help="What to ask, with commas between: names of tasks, YAML files, FILE.py:NAME. `mmlu:law,nutrition` asks two subjects.",
            negative="",
        ),
    ],
    data: Annotated[
        list[str] | None,
        Parameter(
            help="The folder or file with the questions, instead of the hub's; TASK=FOLDER for one of several tasks.",
            negative="",
        ),
    ] = None,
    solver: Annotated[
        str,
        Parameter(
            help="likelihood: the likeliest choice or the target's likelihood; text: continue plain text; chat: answer; or a prompt "
            "strategy such as cot or cot+self-consistency:n=8. auto: by the task and the model; of an endpoint chat."
        ),
    ] = "auto",
    shots: Annotated[
        int | None, Parameter(validator=validators.Number(gte=0), help="Demonstrations; default: as the task says.")
    ] = None,
    demonstrations: Annotated[
        str | None,
        Parameter(
            help="How they are chosen: random, balanced, similar, diverse, with options as similar:k=4,budget=600."
        ),
    ] = None,
    calibrate: Annotated[
        Literal["none", "contextual", "domain"],
        Parameter(
            help="Judge choices by likelihood against questions without content: N/A, or random words of the task. Read `acc`."
        ),
    ] = "none",
    limit: Annotated[
        int | None, Parameter(validator=Positive, help="At most so many questions of each task, drawn by the seed.")
    ] = None,
    samples: Annotated[
        int, Parameter(validator=Positive, help="Answers to each question, drawn at --temperature.")
    ] = 1,
    pass_at: Annotated[
        list[int] | None,
        Parameter(name="--pass", help="With --samples: how often one of so many is right.", negative=""),
    ] = None,
    temperature: Annotated[
        float | None,
        Parameter(help="0 takes the likeliest answer; 1 follows the model's odds. Default: 0, and 0.8 with --samples."),
    ] = None,
    seed: Annotated[int, Parameter(help="The same seed asks and draws the same.")] = 1234,
    max_tokens: Annotated[
        int | None, Parameter(validator=Positive, help="The most tokens of one answer; default: as the task says.")
    ] = None,
    system: Annotated[
        str | None, Parameter(help="Instructions that stand before each conversation; default: the model's own.")
    ] = None,
    corpus: Annotated[
        str,
        Parameter(
            help="What the model learned from, to tell which questions it has seen: a folder; auto: that of a build's home; none."
        ),
    ] = "auto",
    out: Annotated[
        Path | None, Parameter(help="The folder for results, samples and a page; default: evaluations/MODEL-HASH.")
    ] = None,
    anew: Annotated[
        bool, Parameter(help="Write over the results of another run; answers that it has are used again.", negative="")
    ] = False,
    delta: DeltaName = None,
    registry: Registry = None,
    any_base: AnyBase = False,
    url: Url = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
    as_json: AsJson = False,
) -> None:
    """Measure a model on tasks: every score with its number of questions and 95% interval. Run again after a stop, it goes on."""
    drawn = 0.0 if samples == 1 else 0.8
    given = Evaluating(
        tasks=tuple(tasks),
        data=tuple(data or ()),
        solver=solver,
        shots=shots,
        demonstrations=demonstrations,
        calibrate=calibrate,
        limit=limit,
        samples=samples,
        pass_at=tuple(pass_at or ()),
        temperature=drawn if temperature is None else temperature,
        seed=seed,
        max_tokens=max_tokens,
        system=system,
        corpus=corpus,
        out=out,
        anew=anew,
        delta=delta,
        registry=registry,
        any_base=any_base,
        url=url,
        key_env=key_env,
        as_json=as_json,
    )
    work("evaluating").evaluate(model, given)


def compare(
    before: Annotated[Path, Parameter(help="A folder that `dunwu eval` wrote.")],
    after: Annotated[Path, Parameter(help="Another one, on the same tasks.")],
    /,
    *,
    metric: Annotated[
        str | None,
        Parameter(
            help="What decides, where a task has it, such as acc_norm; default: each task's first. Choose before you look."
        ),
    ] = None,
    out: Annotated[Path | None, Parameter(help="A page to write, as FILE.html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations question by question: the difference with its interval, p-value and power of each task."""
    work("comparing").compare(before, after, metric=metric, out=out, as_json=as_json)
