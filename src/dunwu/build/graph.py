"""Stages, what each depends on, and which of them are done.

A stage's folder is named by the hash of its `identity`: its name and code version, the settings that it reads, the hashes of
outside files, and the hashes of the stages that it needs. So a stage that is done is not done again, an interrupted one goes
on in its own folder, and a change touches only what depends on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dunwu.build.home import PLAN_FILE, Figures, Forecast, Home, StageRecord, damage
from dunwu.core.lineage import differences, stable_hash
from dunwu.core.progress import TerminalProgress
from dunwu.core.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a stage may know when it makes its choices: the recipe, what earlier stages found (or are expected to find), time.

    `spent_s`: by the clock; `predicted_s`: what the earlier stages were expected to take, which is on record before they run
    and so is the same after an interruption.
    """

    recipe: Recipe
    facts: Mapping[str, Mapping[str, Any]]
    spent_s: float
    predicted_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage gets when it runs: its own folder, the folders of the stages it needs, and its choices."""

    recipe: Recipe
    home: Home
    folder: Path
    needs: Mapping[str, Path]
    facts: Mapping[str, Mapping[str, Any]]
    resolved: Mapping[str, Any]
    progress: TerminalProgress


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage returns: facts for the record, figures that it counted itself, and files outside its folder that it wrote."""

    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    actual: Figures = field(default_factory=Figures)
    outside: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a build: one file in `build/stages` and one line in `build/registry.py`.

    `version` changes when the code would give another output for the same inputs. `settings` is the part of the recipe that
    the output depends on; `inputs` hashes outside files by name. `forecast` chooses what says `auto`, and predicts.
    """

    name: str
    title: str
    version: str
    needs: tuple[str, ...]
    settings: Callable[[Recipe], Mapping[str, Any]]
    forecast: Callable[[Outlook], Forecast]
    run: Callable[[Work], Outcome]
    inputs: Callable[[Recipe], Mapping[str, Mapping[str, str]]] = lambda _: {}
    wanted: Callable[[Recipe], bool] = lambda _: True


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage placed in a home: where its output belongs, and the record if it is done."""

    stage: Stage
    hash: str
    identity: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]]  # SHA-256 of every outside file, by the name of its source and its own
    folder: Path
    record: StageRecord | None
    reason: str  # why it will run; empty if it is done


def lay_out(stages: Sequence[Stage], recipe: Recipe, home: Home) -> list[Step]:
    """Place every wanted stage in the home and see what is done. Reads files, writes nothing."""
    steps: list[Step] = []
    hashes: dict[str, str] = {}
    for stage in stages:
        if not stage.wanted(recipe):
            continue
        inputs = stage.inputs(recipe)
        identity = {
            "stage": stage.name,
            "version": stage.version,
            "settings": stage.settings(recipe),
            "inputs": {name: {"files": len(files), "sha256": stable_hash(files)} for name, files in inputs.items()},
            "needs": {name: hashes[name] for name in stage.needs if name in hashes},
        }
        hashes[stage.name] = stable_hash(identity)
        folder = home.stage_folder(stage.name, hashes[stage.name])
        record, reason = _state(folder, stage, home, identity)
        steps.append(
            Step(
                stage=stage,
                hash=hashes[stage.name],
                identity=identity,
                inputs=inputs,
                folder=folder,
                record=record,
                reason=reason,
            )
        )
    return steps


def _state(folder: Path, stage: Stage, home: Home, identity: Mapping[str, Any]) -> tuple[StageRecord | None, str]:
    """The record if the stage is done, else why it will run."""
    record = home.record(folder)
    if record is not None:
        fault = damage(folder, record)
        return (record, "") if fault is None else (None, f"output damaged: {fault}")
    if (folder / PLAN_FILE).is_file():
        return None, "interrupted and goes on"
    before = home.done(stage.name)
    if not before:
        return None, "never run"
    changes = differences(before[-1].identity, identity)
    told = list(dict.fromkeys(_change_in_short(*change) for change in changes))
    return None, "changed: " + ", ".join(told[:3])


def _change_in_short(key: str, before: Any, after: Any) -> str:
    kind, _, rest = key.partition(".")
    if kind == "needs":
        return f"the stage {rest} before it"
    if kind == "inputs":
        return f"the files of {rest.rpartition('.')[0]}" if rest else "which files are read"
    return f"{rest or key} from {before!r} to {after!r}"
