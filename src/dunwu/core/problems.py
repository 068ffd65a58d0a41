"""The questions of a benchmark as they cross from room to room: tasks read them, prompts show them, solvers answer, scorers judge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question with its answer, as a task's templates wrote them.

    `id`: unique in its task and the same in every run, so that two models are compared question by question. `input`: what is
    asked, without instructions and demonstrations. `target`: the answer as a demonstration shows it. `choices`: the answers to
    choose from, as they continue the input, of which `right` (a place in `choices`) is right; none where the answer is written
    freely. `group`: what questions about one text have in common; intervals count groups, where there are any. `columns`: the
    row that it was made from, which scorers read.
    """

    id: str
    input: str
    target: str = ""
    choices: tuple[str, ...] = ()
    right: int | None = None
    group: str = ""
    subject: str = ""
    language: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
