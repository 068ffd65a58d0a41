"""Forecasts on record: made before the training, never altered, and scored after it.

HOME/forecasts/
├── 0001.json         a forecast, with the hash of the file before it
└── 0001.score.json   what came of it
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from dunwu.core.errors import DataError
from dunwu.core.files import read_json, sha256_file, write_json
from dunwu.lab.ladder.answer import Interval
from dunwu.lab.ladder.fit import LadderFit
from dunwu.lab.ladder.repeats import worth

FOLDER = "forecasts"
FARTHEST = 3.0  # times the target's compute, either way: what was trained beyond that is another training

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a forecast is of, by hashes: the recipe, the stages of corpus and tokenizer, and how much held-out text is scored."""

    recipe: str
    corpus: str
    tokenizer: str
    heldout_bytes: int


@dataclass(frozen=True, kw_only=True)
class ForecastRecord:
    """A forecast as it was made: losses in nats a token of the held-out text, of which `bytes_per_token` makes bits per byte.

    `fit`: the law with its draws, by which a training can be scored that is not quite the target. `previous`: the hash of the
    forecast before, so that none is taken away unseen. Times are ISO 8601, UTC.
    """

    number: int
    made: str
    name: str
    of: Identity
    previous: str
    confidence: float
    size: float
    tokens: float
    flops: float
    loss: Interval
    seconds: Interval
    bytes_per_token: float
    fresh_tokens: int
    fit: Mapping[str, Any]
    facts: Mapping[str, Any]
    dunwu: str

    @property
    def bits_per_byte(self) -> Interval:
        """The loss in the unit of the report."""
        return self.loss.times(1 / (math.log(2) * self.bytes_per_token))

    def foretold(self, size: float, tokens: float, flops: float) -> Interval:
        """Bits per byte of another training, by the same law."""
        law = LadderFit.from_json(self.fit)
        value, low, high = law.loss(size, float(worth(tokens, self.fresh_tokens)), flops, self.confidence)
        return Interval(value=value, low=low, high=high).times(1 / (math.log(2) * self.bytes_per_token))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training: what a forecast is held against. `hash`: of its stage."""

    hash: str
    began: str
    of: Identity
    size: float
    tokens: float
    flops: float
    bits_per_byte: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ScoreRecord:
    """What came of a forecast. `foretold`: bits per byte, for the very size and tokens that were trained; `error`: measured over
    foretold, less one."""

    number: int
    scored: str
    trained: Trained
    foretold: Interval
    inside: bool
    error: float


def add_forecast(home: Path, record: ForecastRecord) -> Path:
    """Write the forecast beside those before it; returns its file. The caller holds the home's lock."""
    file = home / FOLDER / f"{record.number:04}.json"
    if file.exists():
        raise DataError(f"{file} is there already; forecasts are never written over")
    write_json(file, asdict(record))
    return file


def next_place(home: Path) -> tuple[int, str]:
    """The number of the next forecast, and the hash of the last one's file."""
    files = sorted((home / FOLDER).glob("[0-9][0-9][0-9][0-9].json"))
    return (int(files[-1].stem) + 1, sha256_file(files[-1])) if files else (1, "")


def forecasts_of(home: Path) -> list[ForecastRecord]:
    """All forecasts of a home, the oldest first. Raises DataError where one was altered or taken away."""
    records: list[ForecastRecord] = []
    before = ""
    for number, file in enumerate(sorted((home / FOLDER).glob("[0-9][0-9][0-9][0-9].json")), 1):
        record = _read(file, _forecast)
        if record.number != number or record.previous != before:
            raise DataError(
                f"{file} does not follow the forecast before it: one was altered or taken away, so the record is no record; "
                f"restore {file.parent} from a copy, or move it away"
            )
        before = sha256_file(file)
        records.append(record)
    return records


def score_of(home: Path, number: int) -> ScoreRecord | None:
    """What came of a forecast, if it is known."""
    file = home / FOLDER / f"{number:04}.score.json"
    return _read(file, _score) if file.is_file() else None


def score(record: ForecastRecord, trained: Iterable[Trained], *, now: str) -> ScoreRecord | None:
    """Hold a forecast against the training that comes nearest to its target, if there is one that it can be held against.

    That has the same corpus, vocabulary and held-out text, began after the forecast was made, and took within a factor of
    `FARTHEST` of the target's compute.
    """
    fitting = [
        one
        for one in trained
        if (one.of.corpus, one.of.tokenizer, one.of.heldout_bytes)
        == (record.of.corpus, record.of.tokenizer, record.of.heldout_bytes)
        and one.began >= record.made
        and abs(math.log(one.flops / record.flops)) <= math.log(FARTHEST)
    ]
    if not fitting:
        return None
    best = min(fitting, key=lambda one: _apart(one, record))
    foretold = record.foretold(best.size, best.tokens, best.flops)
    return ScoreRecord(
        number=record.number,
        scored=now,
        trained=best,
        foretold=foretold,
        inside=foretold.holds(best.bits_per_byte),
        error=best.bits_per_byte / foretold.value - 1,
    )


def score_all(home: Path, trained: Sequence[Trained], *, now: str) -> list[tuple[ForecastRecord, ScoreRecord | None]]:
    """Every forecast with what came of it; what is newly known is written down, once."""
    rows: list[tuple[ForecastRecord, ScoreRecord | None]] = []
    for record in forecasts_of(home):
        found = score_of(home, record.number)
        if found is None:
            found = score(record, trained, now=now)
            if found is not None:
                write_json(home / FOLDER / f"{record.number:04}.score.json", asdict(found))
        rows.append((record, found))
    return rows


def _apart(one: Trained, record: ForecastRecord) -> float:
    return abs(math.log(one.size / record.size)) + abs(math.log(one.tokens / record.tokens))


def _read(file: Path, make: Any) -> Any:
    try:
        return make(read_json(file))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is no forecast of this version of dunwu ({error}); move it away") from error


def _forecast(data: dict[str, Any]) -> ForecastRecord:
    parts = {"of": Identity(**data["of"]), "loss": Interval(**data["loss"]), "seconds": Interval(**data["seconds"])}
    return ForecastRecord(**{**data, **parts})


def _score(data: dict[str, Any]) -> ScoreRecord:
    trained = Trained(**{**data["trained"], "of": Identity(**data["trained"]["of"])})
    return ScoreRecord(**{**data, "trained": trained, "foretold": Interval(**data["foretold"])})
