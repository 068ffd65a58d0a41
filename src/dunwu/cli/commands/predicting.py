"""What a training will give, before it is paid for."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from dunwu.cli.given import AsJson, work


def predict(
    *words: str,
    target: Annotated[
        str,
        Parameter(
            help="What to forecast: budget=1e15 (FLOPs) or budget=2h, at its best size; size=50M,tokens=1G; size=50M,budget=1e15. "
            "Without it: what `dunwu build` with the same words would train."
        ),
    ] = "",
    price: Annotated[
        float | None, Parameter(help="Of an hour of this machine, in your money.", validator=validators.Number(gte=0))
    ] = None,
    rung: Annotated[
        float,
        Parameter(
            help="The most of the target's compute that one small training may take.",
            validator=(validators.Number(gt=0), validators.Number(lte=0.25)),
        ),
    ] = 1 / 30,
    levels: Annotated[
        int,
        Parameter(
            help="Levels of compute, each half of the one above.",
            validator=(validators.Number(gte=3), validators.Number(lte=8)),
        ),
    ] = 4,
    score: Annotated[
        bool,
        Parameter(help="Train nothing: hold the forecasts that were made against what was built since.", negative=""),
    ] = False,
    out: Annotated[Path | None, Parameter(help="A folder for the page, its figures and their data.")] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast a training from small ones on the same text: loss, best size, time, memory, money, with intervals.

    dunwu predict [RECIPE | FOLDER | HOME] [key=value ...] --target budget=1e15 --price 2.5
    dunwu predict [HOME ...] --score

    It trains a ladder of small models, about a fifth of the target's compute in all, in the build's home, where it reads the corpus and
    learns the vocabulary once for both. What is finished is kept: the same command goes on where it stopped. The forecast is
    put on record in the home; when the target is built there, it is scored, in the report and by --score (without a home: of all builds
    below ./builds).

    Parameters
    ----------
    words
        [RECIPE | FOLDER | HOME] [key=value ...], as given to `dunwu build`
    """
    if score:
        work("predicting").score(words, out=out, as_json=as_json)
    else:
        work("predicting").predict(
            words, target=target, price=price, largest=rung, levels=levels, out=out, as_json=as_json
        )
