"""What makes a model: a build, what it would do, how far it is, what it learns from."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from dunwu.cli.given import AsJson, Model, work


def build(*words: str) -> None:
    """Build a model from a recipe or a folder of documents.

    dunwu build [RECIPE | FOLDER | FILE] [key=value ...]

    Without an argument: the default recipe. A folder, or a single document, is a recipe by itself.
    What is finished is kept: the same command goes on where it stopped.

    Any key of a recipe can be given, with dots: budget=30min  memory=8GB  out=FOLDER  seed=1
    model.hidden_size=256  pretrain.tokens=5000000  corpus.sources.0.path=books

    Parameters
    ----------
    words
        [RECIPE | FOLDER | FILE] [key=value ...]
    """
    work("building").build(words)


def plan(*words: str) -> None:
    """Say what `dunwu build` with the same words would do, take and give, without doing it.

    Parameters
    ----------
    words
        [RECIPE | FOLDER | FILE] [key=value ...]
    """
    work("building").plan(words)


def tune(
    model: Model,
    /,
    *data: str,
    method: Annotated[
        str,
        Parameter(
            help="What learns beside the frozen model, such as lora, qlora (on a base of 4 bits); full lets all weights learn."
        ),
    ] = "lora",
    out: Annotated[
        Path | None, Parameter(help="The folder of the build; builds/NAME-tuned where none is given.")
    ] = None,
    dry_run: Annotated[
        bool, Parameter(name="--plan", help="Say what it would do, take and give.", negative="")
    ] = False,
) -> None:
    """Tune a model on conversations: a build whose recipe has a base, these files, and no corpus.

    dunwu tune MODEL FILE [FILE ...] [key=value ...]

    What is finished is kept: the same command goes on where it stopped. Any key of a recipe can be given, with dots:
    budget=1h  sft.epochs=3  sft.delta.r=16  "sft.delta.targets=[q_proj, v_proj]"  sft.delta_merged=false

    Parameters
    ----------
    data
        FILE ... [key=value ...]: instruction data as Alpaca, ShareGPT, messages, or prompt and completion
    """
    from_command = work("tuning").words(model, data, method=method, out=out)
    (work("building").plan if dry_run else work("building").build)(from_command)


def align(
    model: Model,
    /,
    *data: str,
    method: Annotated[
        str,
        Parameter(
            help="How preferences are learned: dpo, ipo, kto, orpo, simpo or cpo; or rewards: grpo, rloo, reinforce++, ppo, rejection; "
            "or a teacher: distill; or reward, for a model that scores answers."
        ),
    ] = "dpo",
    reward: Annotated[
        list[str] | None,
        Parameter(
            help="How answers are judged: KIND[:ARGUMENT], such as math or 0.1*length:200; several add up.", negative=""
        ),
    ] = None,
    delta: Annotated[
        str, Parameter(help="What learns beside the frozen model, such as lora; full lets all weights learn.")
    ] = "lora",
    out: Annotated[
        Path | None, Parameter(help="The folder of the build; builds/NAME-aligned where none is given.")
    ] = None,
    dry_run: Annotated[
        bool, Parameter(name="--plan", help="Say what it would do, take and give.", negative="")
    ] = False,
) -> None:
    """Let a model learn preferences, or rewards of its own answers: a build whose recipe has a base, these files, and no corpus.

    dunwu align MODEL FILE [FILE ...] [key=value ...]
    dunwu align MODEL FILE [FILE ...] --method reward [key=value ...]
    dunwu align MODEL PROMPTS [PROMPTS ...] --method grpo --reward KIND[:ARGUMENT] [--reward ...] [key=value ...]

    What is finished is kept: the same command goes on where it stopped. Any key of a recipe can be given, with dots:
    budget=1h  prefer.epochs=2  prefer.objective.beta=0.05  prefer.lr_adamw=1e-4  sft.system_prompt="..."
    rl.steps=200  rl.completions=16  rl.algorithm.beta=0.04  rl.lr_adamw=1e-5

    With --method rejection the best of several answers are fine-tuned on: rejection.n=8  rejection.at_least=1  sft.epochs=2

    Parameters
    ----------
    data
        FILE ... [key=value ...]: pairs of a chosen and a rejected answer, judged or scored answers; for kto labelled ones too;
        for rewards prompts, with what judges them, or the word world (the small world's questions) or sums (word problems)
    """
    if method == "rejection":
        from_command = work("rejecting").words(
            model, data, delta=delta, out=out, rewards=tuple(reward or ()), plan_only=dry_run
        )
    else:
        from_command = work("tuning").aligning_words(
            model, data, method=method, delta=delta, out=out, rewards=tuple(reward or ())
        )
    (work("building").plan if dry_run else work("building").build)(from_command)


def status(*words: str) -> None:
    """Show how far builds are: those below ./builds, or the one of a recipe or home.

    Parameters
    ----------
    words
        [HOME | RECIPE | FOLDER] [key=value ...]
    """
    work("building").status(words)


def doctor(
    path: Annotated[Path, Parameter(help="A build's home, finished or running, or a metrics.jsonl.")],
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a run of training, since which step, and what to try.

    Of reinforcement learning: groups without variance, collapsed entropy, growing length, missing ends of turns, a divergence
    that runs away, a reward that is hacked, and more. Of all other training: skipped batches and a loss that jumps, rises or
    stands still. It looks at the figures that the run wrote down and at nothing else.
    """
    work("examining").doctor(path, as_json=as_json)


def explain(stage: str, /, *words: str) -> None:
    """Say why a stage would run again, or that it would not.

    Parameters
    ----------
    stage
        base, corpus, replay, tokenizer, pretrain, sft, prefer, rl, evaluate or report
    words
        [RECIPE | FOLDER | FILE] [key=value ...], as given to `dunwu build`
    """
    work("building").explain(stage, words)


def show_batch(
    *words: str,
    rows: Annotated[int, Parameter(validator=validators.Number(gte=1), help="How many rows.")] = 4,
    first_row: Annotated[int, Parameter(validator=validators.Number(gte=0), help="Where in the run to look.")] = 0,
    tokenizer: Annotated[
        Path | None, Parameter(help="A model's folder to cut text by; default: the build's own, or the base's.")
    ] = None,
    context_length: Annotated[
        int | None, Parameter(validator=validators.Number(gte=16), help="Tokens of a row; default: the build's.")
    ] = None,
) -> None:
    """Show what fine-tuning would learn from: rows of conversations, coloured by what is learned. Nothing is trained.

    What the reader left out, what was cut and how full the rows are goes to standard error. Piped, what is learned stands
    between ⟦ and ⟧.

    Parameters
    ----------
    words
        [RECIPE | FOLDER | FILE] [key=value ...], as given to `dunwu build`
    """
    work("showing").show_batch(
        words, rows=rows, first_row=first_row, tokenizer=tokenizer, context_length=context_length
    )
