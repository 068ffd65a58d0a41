"""Why a stage would run again: which setting or file changed, from what to what."""

from collections.abc import Mapping, Sequence
from typing import Any

from dunwu.build.graph import Stage, Step, lay_out
from dunwu.build.home import INPUTS_FILE, Home, StageRecord
from dunwu.core.errors import BuildError
from dunwu.core.files import read_json
from dunwu.core.lineage import differences
from dunwu.core.recipe import Recipe

MOST_FILES = 10


def explain_stage(stages: Sequence[Stage], name: str, recipe: Recipe, home: Home) -> str:
    """The reasons, one a line, compared with the newest finished run of that stage. Raises BuildError for an unknown stage."""
    steps = {step.stage.name: step for step in lay_out(stages, recipe, home)}
    if name not in steps:
        known = ", ".join(steps)
        raise BuildError(f"there is no stage {name!r} in this build; its stages are {known}")
    step = steps[name]
    if step.record is not None:
        return (
            f"{name} would not run: it was done on {step.record.finished} in {step.folder}, and nothing changed since"
        )
    before = home.done(name)
    heading = f"{name} would run: {step.reason}"
    if not before or before[-1].hash == step.hash:
        return heading
    lines = [f"{name} would run. Since {before[-1].finished}:"]
    for key, old, new in differences(before[-1].identity, step.identity):
        lines += _change(key, old, new, step, before[-1], home)
    return "\n".join(lines)


def _change(key: str, old: Any, new: Any, step: Step, before: StageRecord, home: Home) -> list[str]:
    kind, _, rest = key.partition(".")
    if kind == "settings":
        return [f"  {rest.partition('.')[2] or rest}: {_shown(old)} → {_shown(new)}"]
    if kind == "version":
        return [f"  the code of this stage: version {old} → {new}"]
    if kind == "needs":
        if old is None or new is None:
            return [f"  the stage {rest} before it is {'new' if old is None else 'gone'}"]
        return [f"  the stage {rest} before it changed: see `dunwu explain {rest}`"]
    if key.endswith(".sha256"):
        source = rest.removesuffix(".sha256")
        was: Mapping[str, Mapping[str, str]] = read_json(home.folder_of(before) / INPUTS_FILE)
        return [f"  files of {source}:", *_changed_files(was.get(source, {}), step.inputs.get(source, {}))]
    return []


def _changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    changes = [
        f"    {name}: {'new' if name not in old else 'gone' if name not in new else 'changed'}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    more = len(changes) - MOST_FILES
    return changes[:MOST_FILES] + ([f"    and {more} more"] if more > 0 else [])


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
