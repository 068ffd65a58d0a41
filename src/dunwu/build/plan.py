"""What a build will do, take and give, without doing it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dunwu.build.base import require_other_home
from dunwu.build.graph import Outlook, Stage, Step, lay_out
from dunwu.build.home import Figures, Forecast, Home, read_forecast
from dunwu.build.inputs import folder_sources
from dunwu.build.learn import require_freezable
from dunwu.core.errors import RecipeError
from dunwu.core.load import load_recipe
from dunwu.core.recipe import Recipe
from dunwu.core.units import format_bytes, format_count, format_duration, parse_duration
from dunwu.model.config import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage, and what it is expected to take (or took, where it is done)."""

    step: Step
    forecast: Forecast


def make_plan(stages: Sequence[Stage], recipe: Recipe, home: Home, *, spent_s: float = 0.0) -> list[PlannedStage]:
    """Forecast every stage in order, each from the facts of those before it. `spent_s`: wall time used up already.

    Runs the probe of training speed. Raises RecipeError when the budget is too small, the base is the home itself, or
    what is to be frozen is no part of the model.
    """
    require_other_home(recipe, home)
    planned: list[PlannedStage] = []
    facts: dict[str, Mapping[str, Any]] = {}
    predicted_s = 0.0
    for step in lay_out(stages, recipe, home):
        if step.record is not None:
            record = step.record
            forecast = Forecast(resolved=record.resolved, predicted=record.actual, facts=record.facts)
        else:
            outlook = Outlook(recipe=recipe, facts=facts, spent_s=spent_s, predicted_s=predicted_s)
            forecast = read_forecast(step.folder) or step.stage.forecast(outlook)
        predicted_s += (step.record or forecast).predicted.seconds or 0.0
        spent_s += forecast.predicted.seconds or 0.0
        facts[step.stage.name] = forecast.facts
        if step.stage.name == ("base" if recipe.base else "pretrain") and "model" in forecast.facts:
            require_freezable(recipe, DecoderConfig(**forecast.facts["model"]))
        planned.append(PlannedStage(step=step, forecast=forecast))
    return planned


def plan_table(planned: Sequence[PlannedStage], recipe: Recipe, home: Home) -> RenderableType:
    """The plan for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("stage", "", "time", "memory", "parameters", "tokens", "FLOPs", "why"):
        table.add_column(heading, justify="left" if heading in ("stage", "", "why") else "right")
    for stage in planned:
        figures, done = stage.forecast.predicted, stage.step.record is not None
        table.add_row(
            stage.step.stage.name,
            "done" if done else "run",
            *_cells(figures),
            Text("unchanged" if done else stage.step.reason),  # values of a recipe are no markup
        )
    to_run_s = sum(stage.forecast.predicted.seconds or 0.0 for stage in planned if stage.step.record is None)
    total = f"\nto do: {format_duration(to_run_s)} of the budget of {format_duration(parse_duration(recipe.budget))}"
    return Group(
        table,
        Text(f"{total}; home: {home.folder}"),
        *(Text(stage.forecast.note) for stage in planned if stage.forecast.note),
        *(Text(line) for line in other_documents(recipe, home)),
    )


def other_documents(recipe: Recipe, home: Home) -> list[str]:
    """A warning where the home was last built from documents that lie elsewhere: two folders of one name share a home."""
    if not home.recipe_file.is_file():
        return []
    try:
        before = {source.path for _, source in folder_sources(load_recipe(home.recipe_file))}
    except RecipeError:  # of another version, or damaged: it is about to be written anew
        return []
    now = {source.path for _, source in folder_sources(recipe)}
    if before == now or not before or not now:
        return []
    gone = ", ".join(sorted(before - now)) or "fewer folders"
    return [
        f"this home was last built from {gone}; its model and report will be replaced. Another home: out=FOLDER, or name=NAME"
    ]


def _cells(figures: Figures) -> list[str]:
    return [
        "" if figures.seconds is None else format_duration(figures.seconds),
        "" if figures.peak_bytes is None else format_bytes(figures.peak_bytes),
        "" if figures.parameters is None else format_count(figures.parameters),
        "" if figures.tokens is None else format_count(figures.tokens),
        "" if figures.flops is None else f"{figures.flops:.1e}",
    ]
