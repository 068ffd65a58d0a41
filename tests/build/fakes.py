"""Stages without a model: each writes down what it read, so that the graph's own work can be seen in milliseconds."""

import io
import time
from collections.abc import Callable

from dunwu.build.graph import Outcome, Stage, Work
from dunwu.build.home import Figures, Forecast, Home
from dunwu.build.run import run_build
from dunwu.core.progress import TerminalProgress
from dunwu.core.recipe import Recipe


def recipe(folder, **changes) -> Recipe:
    """A recipe whose only document source is `folder`."""
    data = {"name": "fake", "corpus": {"sources": [{"kind": "folder", "path": str(folder)}]}, **changes}
    return Recipe.model_validate(data)


def stage(
    name: str, needs: tuple[str, ...] = (), *, runs: list[str], work: Callable[[Work], None] | None = None, **more
):
    """A stage that depends on the section of its name and writes `output.txt`."""

    def run(given: Work) -> Outcome:
        runs.append(name)
        if work is not None:
            work(given)
        read = [(given.needs[need] / "output.txt").read_text() for need in needs]
        (given.folder / "output.txt").write_text(f"{name}({','.join(read)})")
        return Outcome(facts={"read": read}, actual=Figures(tokens=3))

    defaults = {
        "settings": lambda recipe: recipe.model_dump(mode="json").get(name, {}),
        "forecast": lambda outlook: Forecast(resolved={"spent": outlook.spent_s}, predicted=Figures(seconds=1.0)),
        "version": "1",
        "title": name,
    }
    return Stage(name=name, needs=needs, run=run, **{**defaults, **more})


def build(stages, recipe: Recipe, home: Home) -> str:
    """Run a build; returns what it said."""
    said = io.StringIO()
    with TerminalProgress(said) as progress:
        run_build(stages, recipe, home, progress, began_s=time.time())
    return said.getvalue()
