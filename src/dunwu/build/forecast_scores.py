"""Forecasts of a home held against what was trained in it afterwards."""

import datetime

from dunwu.build.home import Home, StageRecord
from dunwu.lab.ladder.record import FOLDER, ForecastRecord, Identity, ScoreRecord, Trained, score_all

Scored = list[tuple[ForecastRecord, ScoreRecord | None]]


def score_home(home: Home) -> Scored:
    """Every forecast of the home with what came of it; what is newly known is written down. Raises DataError for a record that was
    altered."""
    if not (home.folder / FOLDER).is_dir():
        return []
    return score_all(home.folder, trainings_of(home), now=utc_now())


def trainings_of(home: Home) -> list[Trained]:
    """Every pre-training of the home that was evaluated."""
    pretrained = {record.hash: record for record in home.done("pretrain")}
    found: list[Trained] = []
    for evaluated in home.done("evaluate"):
        needs = evaluated.identity["needs"]
        record, bits = (
            pretrained.get(needs.get("pretrain", "")),
            evaluated.facts.get("scores", {}).get("pretrain bits_per_byte"),
        )
        if record is not None and bits is not None and "base" not in record.identity["needs"]:
            found.append(_trained(record, evaluated, bits["value"]))
    return found


def _trained(record: StageRecord, evaluated: StageRecord, bits: float) -> Trained:
    needs = evaluated.identity["needs"]
    return Trained(
        hash=record.hash,
        began=record.started,
        of=Identity(
            recipe="",
            corpus=needs["corpus"],
            tokenizer=record.identity["needs"]["tokenizer"],
            heldout_bytes=evaluated.identity["settings"]["evaluate"]["heldout_bytes"],
        ),
        size=record.facts["parameters"],
        tokens=record.facts["tokens"],
        flops=record.actual.flops or 0.0,
        bits_per_byte=bits,
        seconds=record.facts["seconds"],
    )


def utc_now() -> str:
    """The time as records have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
