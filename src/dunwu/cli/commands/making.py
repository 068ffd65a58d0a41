"""Instruction data, made with a model."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from dunwu.cli.given import work
from dunwu.cli.making_options import Making

maker = App(
    name="make",
    help="Make instruction data with a model: of your own documents, or of tasks that are there.",
    help_format="plaintext",
)


@maker.command(name="qa")
def make_qa(
    documents: Annotated[Path, Parameter(help="A folder of documents (PDF, Word, HTML, text, …), or one of them.")],
    /,
    *,
    making: Making,
    pairs: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=20), help="Questions of each passage.")] = 3,
    passage_chars: Annotated[
        int, Parameter(validator=validators.Number(gte=100), help="About how long a passage is; default: 1500.")
    ] = 1500,
    check: Annotated[
        Literal["both", "words", "model", "none"],
        Parameter(help="How the passage must support an answer: by its words, by the model's second look, or both."),
    ] = "both",
    with_passage: Annotated[
        bool, Parameter(help="Put the passage before the question in each row.", negative="")
    ] = False,
    redact: Annotated[bool, Parameter(help="Take personal data out of the passages first.")] = True,
) -> None:
    """Questions and answers on your own documents, each supported by a passage that the row names."""
    how = {
        "pairs": pairs,
        "passage_chars": passage_chars,
        "check": check,
        "with_passage": with_passage,
        "redact": redact,
    }
    work("making").qa(documents, making, **how)


SeedFile = Annotated[Path, Parameter(help="A .json or .jsonl file of tasks, in any instruction format.")]


@maker.command(name="self-instruct")
def make_self_instruct(seeds: SeedFile, /, *, making: Making) -> None:
    """New tasks like some tens of yours, with inputs and outputs (Self-Instruct, arXiv:2212.10560)."""
    work("making").self_instruct(seeds, making)


@maker.command(name="unnatural")
def make_unnatural(
    seeds: SeedFile,
    /,
    *,
    making: Making,
    paraphrases: Annotated[int, Parameter(help="Other ways to say each instruction, each a row: 0 to 8.")] = 0,
) -> None:
    """New tasks with inputs and constraints, three of yours shown at a time (Unnatural Instructions, arXiv:2212.09689)."""
    work("making").unnatural(seeds, making, paraphrases=paraphrases)


@maker.command(name="evolve")
def make_evolve(
    instructions: SeedFile,
    /,
    *,
    making: Making,
    generations: Annotated[int, Parameter(help="How many times each instruction is evolved: 1 to 20.")] = 4,
) -> None:
    """Your instructions made harder, or anew after their model, and answered (Evol-Instruct, WizardLM, arXiv:2304.12244)."""
    work("making").evolve(instructions, making, generations=generations)
