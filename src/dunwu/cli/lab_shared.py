"""What the commands of the lab and `dunwu predict` share: how their words are read, and how they end."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dunwu.core.errors import RecipeError
from dunwu.core.screen import harmless
from dunwu.lab.experiment import facts_as_json, require_drawing, write_experiment
from dunwu.lab.record import Experiment
from dunwu.lab.scaling.points import count_of


def page_folder(out: Path | None) -> Path | None:
    """Where `--out` puts the page; asked before long work, not after it.

    Raises RecipeError where it is no folder, MissingExtraError where figures cannot be drawn.
    """
    if out is None:
        return None
    folder = out.expanduser()
    if folder.is_file() or out.suffix == ".json":
        raise RecipeError(f"--out {out}: a folder is meant; it gets a page, figures, and the numbers as JSON and CSV")
    require_drawing()
    return folder


def tell(
    experiment: Experiment,
    lines: Iterable[str],
    *,
    out: Path | None,
    as_json: bool,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Print the experiment's facts, or `facts`, as JSON, or lines for a person; then write the page into `out`.

    In that order, so that a disk that is full takes nothing of what was found.
    """
    if as_json:
        print(json.dumps(facts_as_json(experiment.facts if facts is None else facts), ensure_ascii=False))
    else:
        print(harmless("\n".join(lines)))
    if out is not None:
        page = write_experiment(experiment, out)
        if not as_json:
            print(harmless(f"page: {page}"))


def columns_named(words: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """`size=COLUMN …` as columns by what they hold. Raises RecipeError with what can be named."""
    found: dict[str, str] = {}
    for word in words:
        what, equals, name = word.partition("=")
        if not equals or what not in known:
            raise RecipeError(f"{word!r} names no column; write {', '.join(f'{one}=COLUMN' for one in known)}")
        found[what] = name
    return found


def count_or_zero(text: str) -> float:
    """A number above 0, such as 1.3B or 1e21; 0 where the text says none."""
    try:
        count = count_of(text)
    except ValueError:
        return 0.0
    return count if 0 < count < math.inf else 0.0


def count_above_zero(text: str, option: str, *, of: str = "", such_as: str) -> float:
    """The same where one is needed: the value of an option, of FLOPs for instance. Raises RecipeError."""
    count = count_or_zero(text)
    if not count:
        raise RecipeError(f"{option} {text}: must be a number {of and f'of {of} '}above 0, such as {such_as}")
    return count
