"""`dunwu predict`: a ladder, a forecast on record, and what came of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dunwu import __version__
from dunwu.build.forecast_scores import score_home, utc_now
from dunwu.build.home import Home
from dunwu.build.ladder import Wish, climb, climbing, memory_bytes
from dunwu.cli.failures import crash_log
from dunwu.cli.lab_shared import count_or_zero, page_folder, tell
from dunwu.cli.target import BUILDS, resolve
from dunwu.core.errors import BuildError, RecipeError
from dunwu.core.progress import TerminalProgress
from dunwu.core.units import parse_duration
from dunwu.lab.ladder.calibration import calibration, score_lines
from dunwu.lab.ladder.forecast import CONFIDENCE, answer, facts_of, lines_of, oracle_of
from dunwu.lab.ladder.page import forecast_page
from dunwu.lab.ladder.record import ForecastRecord, add_forecast, next_place

PARTS = ("budget", "size", "tokens")


def predict(
    words: Sequence[str],
    *,
    target: str,
    price: float | None,
    largest: float,
    levels: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Climb, fit, put the forecast on record, and say it."""
    wish, folder = wish_of(target), page_folder(out)
    recipe, home = resolve(words)
    with crash_log(home.logs), TerminalProgress() as progress, climbing(home):
        ladder, identity = climb(recipe, home, wish, progress, largest=largest, levels=levels)
        progress.start("Fitting")
        oracle = oracle_of(ladder, seed=recipe.seed)
        answers = answer(ladder, oracle)
        held = memory_bytes(recipe, ladder, answers.target.size)
        facts = facts_of(ladder, oracle.fit, answers, memory_bytes=held, price=price)
        number, previous = next_place(home.folder)
        record = ForecastRecord(
            number=number,
            made=utc_now(),
            name=recipe.name,
            of=identity,
            previous=previous,
            confidence=CONFIDENCE,
            size=answers.target.size,
            tokens=answers.target.tokens,
            flops=answers.target.flops,
            loss=answers.loss,
            seconds=answers.seconds,
            bytes_per_token=ladder.bytes_per_token,
            fresh_tokens=ladder.fresh_tokens,
            fit=oracle.fit.as_json(),
            facts=facts,
            dunwu=__version__,
        )
        file = add_forecast(home.folder, record)
    lines = lines_of(ladder, oracle.fit, answers, memory_bytes=held, price=price)
    tell(
        forecast_page(recipe.name, ladder, oracle, answers, facts),
        [*lines, f"on record: {file}"],
        out=folder,
        as_json=as_json,
        facts={"forecast": str(file), **facts},
    )


def score(words: Sequence[str], *, out: Path | None, as_json: bool) -> None:
    """Hold forecasts against what was built since."""
    folder = page_folder(out)
    rows = [row for home in _homes(words) for row in score_home(home)]
    if not rows:
        where = ", ".join(words) or f"the builds below {BUILDS.absolute()}"
        raise BuildError(f"there is no forecast in {where}; make one with `dunwu predict`, then build, then score it")
    tell(calibration(rows), score_lines(rows), out=folder, as_json=as_json)


def wish_of(text: str) -> Wish:
    """What `--target` says. Raises RecipeError with what to write instead."""
    if not text:
        return Wish()
    parts: dict[str, Any] = {}
    for word in text.split(","):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or name not in PARTS or name in parts:
            raise RecipeError(
                f"--target {text}: {word!r} is no part of a target; write budget=1e15 (FLOPs), budget=2h, size=50M,tokens=1G, or "
                "size=50M,budget=1e15"
            )
        parts[name] = value
    if set(parts) not in ({"budget"}, {"size", "tokens"}, {"size", "budget"}):
        raise RecipeError(
            f"--target {text}: give budget alone, size and tokens, or size and budget; {' and '.join(parts)} alone say too little or too much"
        )
    counts = {name: _count(text, name, parts[name]) for name in ("size", "tokens") if name in parts}
    return Wish(**counts, **(_budget(text, parts["budget"]) if "budget" in parts else {}))


def _count(text: str, name: str, value: str) -> float:
    count = count_or_zero(value)
    if not 1 <= count < 1e18:
        raise RecipeError(
            f"--target {text}: {name}={value} is no number of {_WHAT[name]}; write it as 50M, 1.2G or 3e6"
        )
    return count


_WHAT = {"size": "parameters", "tokens": "tokens"}


def _budget(text: str, value: str) -> dict[str, float]:
    """FLOPs, or a time."""
    flops = count_or_zero(value)
    if value[-1:].isdigit() and 0 < flops < 1e30:
        return {"flops": flops}
    try:
        seconds = parse_duration(value)
    except RecipeError:
        seconds = 0.0
    if not seconds > 0:
        raise RecipeError(
            f"--target {text}: budget={value} is neither FLOPs nor a time above 0; write budget=1e15, or budget=30min, budget=2h"
        )
    return {"seconds": seconds}


def _homes(words: Sequence[str]) -> list[Home]:
    if words:
        homes = [Home(Path(word).expanduser()) for word in words]
        for home in homes:
            if not home.exists():
                raise BuildError(f"{home.folder} is no build's home; forecasts are on record in homes")
        return homes
    return [Home(folder) for folder in sorted(BUILDS.glob("*")) if Home(folder).exists()] if BUILDS.is_dir() else []
