"""What `dunwu eval` is given, as one record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from dunwu.cli.given import AnyBase, AsJson, DeltaName, KeyEnv, Registry, Url
from dunwu.core.units import parse_duration

Positive = validators.Number(gte=1)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """The options; each says what it is for."""

    tasks: Annotated[
        tuple[str, ...],
        Parameter(
            help="What to ask, with commas between: names of tasks, YAML files, FILE.py:NAME. `mmlu:law,nutrition` asks two subjects.",
            negative="",
        ),
    ]
    data: Annotated[
        tuple[str, ...],
        Parameter(
            help="The folder or file with the questions, instead of the hub's; TASK=FOLDER for one of several tasks.",
            negative="",
            show_default=False,
        ),
    ] = ()
    solver: Annotated[
        str,
        Parameter(
            help="likelihood: the likeliest choice or the target's likelihood; text: continue plain text; chat: answer; or a prompt "
            "strategy such as cot or cot+self-consistency:n=8. auto: by the task and the model; of an endpoint chat."
        ),
    ] = "auto"
    shots: Annotated[
        int | None, Parameter(validator=validators.Number(gte=0), help="Demonstrations; default: as the task says.")
    ] = None
    demonstrations: Annotated[
        str | None,
        Parameter(
            help="How they are chosen: random, balanced, similar, diverse, with options as similar:k=4,budget=600."
        ),
    ] = None
    calibrate: Annotated[
        Literal["none", "contextual", "domain"],
        Parameter(
            help="Judge choices by likelihood against questions without content: N/A, or random words of the task. Read `acc`."
        ),
    ] = "none"
    limit: Annotated[
        int | None, Parameter(validator=Positive, help="At most so many questions of each task, drawn by the seed.")
    ] = None
    samples: Annotated[int, Parameter(validator=Positive, help="Answers to each question, drawn at --temperature.")] = 1
    pass_at: Annotated[
        tuple[int, ...],
        Parameter(
            name="--pass", help="With --samples: how often one of so many is right.", negative="", show_default=False
        ),
    ] = ()
    temperature: Annotated[
        float | None,
        Parameter(help="0 takes the likeliest answer; 1 follows the model's odds. Default: 0, and 0.8 with --samples."),
    ] = None
    seed: Annotated[int, Parameter(help="The same seed asks and draws the same.")] = 1234
    max_tokens: Annotated[
        int | None, Parameter(validator=Positive, help="The most tokens of one answer; default: as the task says.")
    ] = None
    system: Annotated[
        str | None, Parameter(help="Instructions that stand before each conversation; default: the model's own.")
    ] = None
    corpus: Annotated[
        str,
        Parameter(
            help="What the model learned from, to tell which questions it has seen: a folder; auto: that of a build's home; none."
        ),
    ] = "auto"
    out: Annotated[
        Path | None, Parameter(help="The folder for results, samples and a page; default: evaluations/MODEL-HASH.")
    ] = None
    anew: Annotated[
        bool, Parameter(help="Write over the results of another run; answers that it has are used again.", negative="")
    ] = False
    delta: DeltaName = None
    registry: Registry = None
    any_base: AnyBase = False
    url: Url = None
    key_env: KeyEnv = "OPENAI_API_KEY"
    timeout: Annotated[
        str,
        Parameter(help="With --url: how long an answer may take to begin, and each piece of it to come: 30s, 10min."),
    ] = "2min"
    as_json: AsJson = False

    @property
    def drawn_at(self) -> float:
        """The temperature: as it was given, or what suits the number of samples."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.samples == 1 else 0.8

    @property
    def timeout_s(self) -> float:
        """Raises RecipeError for what is no duration."""
        return parse_duration(self.timeout)
