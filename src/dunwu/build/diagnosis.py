"""What the doctor finds in the runs of a build, finished, running or broken off, or in one file of metrics."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dunwu.align.doctor.doctor import Doctor
from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.ranges import reward_range
from dunwu.align.doctor.registry import RULES, TRAINING_RULES
from dunwu.build.home import Home, StageRecord, read_forecast
from dunwu.core.errors import BuildError, DataError
from dunwu.core.files import disk_errors
from dunwu.core.load import load_recipe
from dunwu.core.recipe import RlSection

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Of one run: its stage, whether that is done, how many steps there are, and what was found."""

    stage: str
    done: bool
    steps: int
    findings: tuple[Finding, ...]


def diagnose(path: Path) -> list[Diagnosis]:
    """What is found in every run of a home, or in a file of metrics. Raises BuildError where there is nothing to look at."""
    if path.is_file():
        return [_diagnosis(path, path.parent.name.rpartition("-")[0] or "metrics", done=True, rewarded=DoctorConfig())]
    home = Home(path)
    if not home.exists():
        raise BuildError(f"{path} is neither a build's home nor a file of metrics; name builds/NAME or a metrics.jsonl")
    runs = _runs(home)
    if not runs:
        raise BuildError(f"nothing has been trained in {path} yet; run `dunwu build {path}` first")
    section = load_recipe(home.recipe_file).rl
    return [
        _diagnosis(
            folder / METRICS_FILE,
            stage,
            done=record is not None,
            rewarded=rl_config(section, _resolved(folder, record)),
        )
        for stage, (folder, record) in runs.items()
    ]


def rl_config(section: RlSection, resolved: Mapping[str, Any]) -> DoctorConfig:
    """What a doctor is told of reinforcement learning by its section and the stage's choices."""
    return DoctorConfig(
        reward_range=reward_range(section.rewards),
        answer_tokens=resolved.get("answer_tokens"),
        steps=resolved.get("steps"),
    )


def read_rows(path: Path) -> Iterable[dict[str, Any]]:
    """Rows of metrics; half a line of a killed process is passed over. Raises DataError where there is not a single row."""
    with disk_errors(path):
        lines = path.read_bytes().splitlines()
    rows = [row for line in lines if (row := _row(line)) is not None]
    if lines and not rows:
        raise DataError(f"{path} holds no rows of metrics, one JSON object a line with a step; name a metrics.jsonl")
    return rows


def _runs(home: Home) -> dict[str, tuple[Path, StageRecord | None]]:
    """Of every stage that trains the run of the present build, or else the latest, in the order in which they began."""
    current = home.current()
    newest: dict[str, Path] = {}
    for file in sorted(home.stages.glob(f"*/{METRICS_FILE}"), key=lambda file: file.stat().st_mtime):
        newest[file.parent.name.rpartition("-")[0]] = file.parent
    chosen = {stage: home.folder_of(current[stage]) if stage in current else folder for stage, folder in newest.items()}
    began = sorted(chosen.items(), key=lambda item: (item[1] / METRICS_FILE).stat().st_mtime)
    return {stage: (folder, home.record(folder)) for stage, folder in began if (folder / METRICS_FILE).is_file()}


def _diagnosis(file: Path, stage: str, *, done: bool, rewarded: DoctorConfig) -> Diagnosis:
    """By the rules of what the rows are of; `rewarded`: what is known of a run that has rewards."""
    rows = list(read_rows(file))
    if any("reward" in row for row in rows):
        doctor = Doctor.after(rows, rewarded, RULES)
    else:
        doctor = Doctor.after(rows, DoctorConfig(section=stage), TRAINING_RULES)
    return Diagnosis(stage=stage, done=done, steps=doctor.history.rows, findings=tuple(doctor.findings))


def _resolved(folder: Path, record: StageRecord | None) -> Mapping[str, Any]:
    if record is not None:
        return record.resolved
    forecast = read_forecast(folder)
    return {} if forecast is None else forecast.resolved


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
