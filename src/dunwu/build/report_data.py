"""What the report is made of: everything that the finished stages of a home left behind. What is absent is None or empty."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dunwu.align.card.record import AlignmentCard, read_card
from dunwu.build.forecast_scores import Scored, score_home
from dunwu.build.home import TRAINING_STAGES, Home, StageRecord
from dunwu.core.errors import DataError
from dunwu.core.files import read_json
from dunwu.evaluate.forgetting import Scorecard, read_scorecard
from dunwu.evaluate.results import Evaluation, read_evaluation

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One training run: its steps, and what went wrong on the way."""

    steps: Sequence[Mapping[str, Any]]
    incidents: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """One build. `missing` names files that should be there and could not be read."""

    name: str
    folder: Path
    recipe: str
    records: Mapping[str, StageRecord]
    card: Mapping[str, Any]
    config: Mapping[str, Any]
    curves: Mapping[str, Curve]
    evaluation: Evaluation
    scorecard: Scorecard | None = None  # of a build that went on from a base
    alignment: AlignmentCard | None = None  # of a build that learned from judgements
    forecasts: Scored = field(default_factory=lambda: [])
    missing: Sequence[str] = field(default_factory=list[str])


def collect(folder: Path) -> ReportData:
    """Read a home. A file that is missing or damaged costs its part of the report and is named in it, nothing more."""
    home = Home(folder)
    records = home.current() or _newest(home)
    missing: list[str] = []
    card = _json(_file(home, records, "corpus", "card.json"), missing)
    config = _json(home.model / "config.json" if home.model.is_dir() else None, missing)
    scorecard = None
    if "base" in records:
        scorecard = _read(_file(home, records, "evaluate", "scorecard.json"), read_scorecard, missing)
    alignment = None
    if "evaluate" in records and "alignment" in records["evaluate"].facts:
        alignment = _read(_file(home, records, "evaluate", "alignment.json"), read_card, missing)
    evaluation = _evaluation(_file(home, records, "evaluate", "evaluation.json"), missing)
    curves = {
        stage: curve
        for stage in (*TRAINING_STAGES, "reward")
        if (curve := _curve(_file(home, records, stage, "metrics.jsonl"), missing)) is not None
    }
    return ReportData(
        name=folder.name,
        folder=folder,
        recipe=home.recipe_file.read_text("utf-8") if home.recipe_file.is_file() else "",
        records={name: record for name, record in records.items() if name != "report"},
        card=card,
        config=config,
        curves=curves,
        evaluation=evaluation,
        scorecard=scorecard,
        alignment=alignment,
        forecasts=_forecasts(home, missing),
        missing=missing,
    )


def _forecasts(home: Home, missing: list[str]) -> Scored:
    """What was foretold of this home, scored where it was trained since."""
    try:
        return score_home(home)
    except DataError as error:
        missing.append(str(error))
        return []


def _newest(home: Home) -> dict[str, StageRecord]:
    """Of every stage the record finished last, where `build.json` lists none."""
    names = {folder.name.rpartition("-")[0] for folder in home.stages.glob("*-*")} if home.stages.is_dir() else set()
    newest = [found[-1] for name in names if (found := home.done(name))]
    return {record.stage: record for record in sorted(newest, key=lambda record: record.finished)}


def _file(home: Home, records: Mapping[str, StageRecord], stage: str, name: str) -> Path | None:
    """Where a stage's file lies: directly in its folder or below it; None when the stage was not run."""
    if stage not in records:
        return None
    folder = home.folder_of(records[stage])
    if (folder / name).is_file():
        return folder / name
    found = [known for known in records[stage].files if Path(known).name == name]
    return folder / (found[0] if found else name)


def _json(path: Path | None, missing: list[str]) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        data = read_json(path)
    except DataError as error:
        missing.append(str(error))
        return {}
    return data if isinstance(data, dict) else {}


def _evaluation(path: Path | None, missing: list[str]) -> Evaluation:
    return _read(path, read_evaluation, missing) or Evaluation()


def _read(path: Path | None, read: Callable[[Path], T], missing: list[str]) -> T | None:
    if path is None:
        return None
    try:
        return read(path)
    except DataError as error:
        missing.append(str(error))
        return None


def _curve(path: Path | None, missing: list[str]) -> Curve | None:
    if path is None:
        return None
    if not path.is_file():
        missing.append(f"{path} does not exist")
        return None
    rows = [row for line in path.read_bytes().splitlines() if (row := _row(line)) is not None]
    steps = [row for row in rows if "loss" in row and ("tokens" in row or "reward" in row)]
    return Curve(steps=steps, incidents=[row for row in rows if "incident" in row])


def _row(line: bytes) -> dict[str, Any] | None:
    """A row of metrics, or None where a killed process left half a line."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
