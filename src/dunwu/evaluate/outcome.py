"""What an evaluation found, on disk: `results.json` (figures with intervals) and `samples.jsonl` (every question, as it was answered).

Two such folders can be compared question by question; see `comparing.py`.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dunwu.core.errors import DataError
from dunwu.core.files import atomic_write, read_json, write_json
from dunwu.core.nulls import with_nans, with_nulls
from dunwu.core.records import Score

FORMAT = 1
RESULTS, SAMPLES = "results.json", "samples.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A metric over some questions, with its interval. `as_power`: exp of a mean; `more_is_better`: false of perplexities."""

    score: Score
    more_is_better: bool = True
    as_power: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How much of a task was in a training corpus. `checked`: questions long enough to tell; `seen`: those with a run of words in
    the corpus; `whole`: those with nearly all of them there. `clean` and `dirty`: the figures on questions that were not seen, and on
    those that were."""

    corpus: str
    checked: int
    seen: Score
    clean: tuple[Figure, ...]
    dirty: tuple[Figure, ...]
    whole: Score | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """One task. `asked` of `total` questions; `shots`: demonstrations, at most; `cut`, `dropped`, `refused`: questions whose prompt was
    cut, lost demonstrations, or was not asked at all. `prompt`: what was asked first, as the model read it."""

    name: str
    fingerprint: str
    output: str
    solver: str
    asked: int
    total: int
    groups: int
    shots: int
    samples: int
    cut: int
    dropped: int
    refused: int
    prompt: str
    figures: tuple[Figure, ...]
    subjects: Mapping[str, tuple[Figure, ...]] = field(default_factory=dict[str, tuple[Figure, ...]])
    exposure: Exposure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The contents of `results.json`. `identity`: the hash of the model's weights and tokenizer, or an endpoint's address.
    `unsearched`: what the model learned from, or may have, where its questions could not be looked for."""

    model: str
    identity: str
    settings: Mapping[str, Any]
    tasks: tuple[TaskOutcome, ...]
    dunwu: str
    finished: str
    seconds: float
    unsearched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response to a question."""

    text: str | None = None
    finish_reason: str | None = None
    chosen: int | None = None
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question, a line of `samples.jsonl`. `values` and `weights` by metric, as in `Measured`; `seen`: the share of its runs of
    words that a training corpus holds."""

    task: str
    id: str
    input: str
    target: str
    choices: tuple[str, ...]
    right: int | None
    subject: str
    group: str
    answers: tuple[Answer, ...]
    values: Mapping[str, float]
    weights: Mapping[str, float]
    shots: int = 0
    cut: int = 0
    dropped: int = 0
    refused: str = ""
    seen: float | None = None


def write_outcome(folder: Path, outcome: Outcome, samples: Sequence[Sample]) -> None:
    """Write both files; the results last, so that where they are, all is."""
    with atomic_write(folder / SAMPLES) as file:
        for sample in samples:
            line = json.dumps(with_nulls(asdict(sample)), ensure_ascii=False)
            file.write(line.encode("utf-8", "backslashreplace") + b"\n")
    write_json(folder / RESULTS, {"format": FORMAT, **with_nulls(asdict(outcome))})


def read_outcome(path: Path) -> Outcome:
    """The results in a folder, or in the file itself. Raises DataError where there are none."""
    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file} does not exist; give a folder that `dunwu eval` wrote (--out), once it has finished")
    data = read_json(file)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DataError(f"{file} holds no results of `dunwu eval` (format {FORMAT}); evaluate again")
    try:
        return Outcome(
            **{
                **{key: value for key, value in data.items() if key != "format"},
                "tasks": tuple(_task(task) for task in data["tasks"]),
                "unsearched": tuple(data.get("unsearched", ())),
            }
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is damaged ({error}); evaluate again") from error


def read_samples(path: Path) -> Iterator[Sample]:
    """The questions beside the results. Raises DataError naming the line that is damaged."""
    file = (path if path.is_dir() else path.parent) / SAMPLES
    if not file.is_file():
        raise DataError(f"{file} does not exist; it belongs beside {RESULTS}: evaluate again, or copy the whole folder")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                yield Sample(
                    **{
                        **row,
                        "choices": tuple(row["choices"]),
                        "answers": tuple(Answer(**{**a, "logprobs": tuple(a["logprobs"])}) for a in row["answers"]),
                        "values": with_nans(row["values"], *row["values"]),
                    }
                )
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file}, line {number} is damaged ({error}); evaluate again") from error


def figure_named(figures: Sequence[Figure], name: str) -> Figure | None:
    """The figure of that name, if it is there."""
    return next((figure for figure in figures if figure.score.name == name), None)


def _task(data: Mapping[str, Any]) -> TaskOutcome:
    exposure = data["exposure"]
    return TaskOutcome(
        **{
            **data,
            "figures": _figures(data["figures"]),
            "subjects": {subject: _figures(figures) for subject, figures in data["subjects"].items()},
            "exposure": None if exposure is None else _exposure(exposure),
        }
    )


def _exposure(data: Mapping[str, Any]) -> Exposure:
    return Exposure(
        **{
            **data,
            "seen": _score(data["seen"]),
            "whole": None if data.get("whole") is None else _score(data["whole"]),
            "clean": _figures(data["clean"]),
            "dirty": _figures(data["dirty"]),
        }
    )


def _figures(data: Sequence[Mapping[str, Any]]) -> tuple[Figure, ...]:
    return tuple(Figure(**{**figure, "score": _score(figure["score"])}) for figure in data)


def _score(data: Mapping[str, Any]) -> Score:
    return Score(**with_nans(data, "value", "low", "high"))


def is_finite(score: Score) -> bool:
    """Whether it has an interval."""
    return math.isfinite(score.low) and math.isfinite(score.high)
