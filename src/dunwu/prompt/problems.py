"""Problems from a file of questions and answers."""

from pathlib import Path
from typing import Any

from dunwu.core.errors import DataError
from dunwu.core.problems import Problem
from dunwu.core.recipe import PromptFileSource
from dunwu.corpus.prompts import Prompt, PromptReader


def read_problems(path: Path | str) -> tuple[Problem, ...]:
    """Rows of JSON or a table, with a question and an answer under their usual names. Raises DataError for a file that cannot be
    read, and where a row has no answer."""
    found = list(PromptReader(PromptFileSource(path=str(Path(path).expanduser()))))
    return tuple(_problem(prompt, path) for prompt in found)


def _problem(prompt: Prompt, path: Path | str) -> Problem:
    answer: Any = prompt.columns.get("answer")
    first = answer[0] if isinstance(answer, list | tuple) and answer else answer
    if first is None or str(first).strip() == "":
        raise DataError(f"{path}: row {prompt.source} has no answer; give each row a question and an answer")
    return Problem(
        id=prompt.source, input=prompt.messages[-1].content, target=str(first).strip(), columns=dict(prompt.columns)
    )
