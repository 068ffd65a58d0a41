"""`dunwu compare`."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from dunwu.build.report_comparison import write_comparison_page
from dunwu.core.nulls import with_nulls
from dunwu.core.screen import harmless
from dunwu.evaluate.comparing import Change, Comparison, TaskComparison
from dunwu.evaluate.comparing import compare as compared
from dunwu.evaluate.outcome import Outcome, read_outcome, read_samples

SHOWN = 8


def compare(before: Path, after: Path, *, metric: str | None, out: Path | None, as_json: bool) -> None:
    """Print the differences, and write them as a page where one is wanted."""
    before, after = before.expanduser(), after.expanduser()
    outcomes = _named_apart(read_outcome(before), read_outcome(after), before, after)
    found = compared(*outcomes, tuple(read_samples(before)), tuple(read_samples(after)), metric=metric)
    if as_json:
        print(json.dumps(with_nulls(asdict(found)), ensure_ascii=False))
    else:
        print(harmless("\n".join(_lines(found))))
    if out is not None:
        print(harmless(f"\n{write_comparison_page(out.expanduser(), found)}"))


def _named_apart(before: Outcome, after: Outcome, *paths: Path) -> tuple[Outcome, Outcome]:
    """Two models of one name go by their folders too."""
    if before.model != after.model:
        return before, after
    first, second = (path if path.is_dir() else path.parent for path in paths)
    return replace(before, model=f"{before.model} ({first})"), replace(after, model=f"{after.model} ({second})")


def _lines(found: Comparison) -> Iterator[str]:
    many = f", p adjusted for {len(found.tasks)} tasks (Holm)" if len(found.tasks) > 1 else ""
    yield f"{found.before} → {found.after}: the same questions, paired{many}"
    for task in found.tasks:
        yield from _task_lines(task)
    for tasks, which in ((found.only_before, found.before), (found.only_after, found.after)):
        if tasks:
            yield f"\nOnly of {which}: {', '.join(tasks)}"


def _task_lines(task: TaskComparison) -> Iterator[str]:
    yield f"\n{task.task}"
    yield f"  {_change(task.main)}"
    if task.main.gained is not None:
        yield f"    {task.main.gained:,} turned right, {task.main.lost:,} turned wrong"
    if task.main.smallest is not None:
        yield f"    {task.main.difference.n:,} questions show a difference of {task.main.smallest:.3f} in four of five cases"
    elif task.main.gained is not None:
        yield f"    {task.main.difference.n:,} questions, of which so few changed, show no difference at all"
    if task.main.needed is not None and task.main.verdict == "same":
        yield f"    were the difference as found, {task.main.needed:,} questions would show it in four of five cases"
    for other in task.others:
        yield f"  {_change(other)}"
    clear = [change for change in task.subjects if change.verdict != "same"]
    if task.subjects:
        yield f"  by subject: {len(clear)} of {len(task.subjects)} differ clearly (Holm)"
        yield from (f"    {_change(change)}" for change in clear[:SHOWN])
    if task.only_before or task.only_after:
        yield f"  left out: {task.only_before:,} questions asked before only, {task.only_after:,} after only"
    yield from (f"  not alike: {remark}" for remark in task.remarks)


def _change(change: Change) -> str:
    difference = change.difference
    limits = f"[{difference.low:+.3f}, {difference.high:+.3f}]" if math.isfinite(difference.low) else "no interval"
    verdict = "no clear difference" if change.verdict == "same" else change.verdict
    p = "p < .001" if change.holm < 0.001 else f"p = {change.holm:.3f}"
    return (
        f"{change.name:<18} {change.before:.3f} → {change.after:.3f}  {difference.value:+.3f} {limits}  {p}  "
        f"n={difference.n:,}  {verdict}"
    )
