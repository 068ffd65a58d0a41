"""Reward models: what they say of answers."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dunwu.cli.given import work

rewards = App(
    name="reward",
    help="Score answers with a reward model; make one with dunwu align MODEL FILE --method reward.",
    help_format="plaintext",
)


@rewards.command(name="score")
def score(
    model: Annotated[Path, Parameter(help="A reward model's folder, or the home of the build that made it.")],
    file: Annotated[Path, Parameter(help="A .json or .jsonl file, also .gz and .zst, or a folder of them.")],
    /,
    *,
    also: Annotated[
        list[Path] | None, Parameter(help="A further reward model: the scores are then an ensemble's.", negative="")
    ] = None,
    out: Annotated[Path | None, Parameter(help="The file to write; the terminal where none is given.")] = None,
) -> None:
    """Write the rows of a file with scores: of an answer (score), of a pair (chosen_score, rejected_score), of several (scores).

    A row holds a prompt and a completion (response, answer, output), messages that end with an answer, a chosen and a rejected
    answer, or completions. Of pairs it also says how often the chosen answer has the higher score.
    """
    work("rewards").score([model, *(also or ())], file, out=out)
