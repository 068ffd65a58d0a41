"""Making a file of rows: a maker asks, the sieve judges, and what is kept is written with where it came from.

Beside the rows, `OUT.making/` holds the journal of answers and a summary. The same call goes on where the last one stopped.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from dunwu import __version__
from dunwu.chat.ledger import Price
from dunwu.chat.protocol import Chat
from dunwu.core.errors import DataError, DiskError, RecipeError
from dunwu.core.files import atomic_write, disk_errors, write_json
from dunwu.core.lineage import HASH_LENGTH, stable_hash
from dunwu.core.progress import Progress, SilentProgress
from dunwu.corpus.decontaminate import ExamIndex
from dunwu.prompt.making.asking import Asker, Budget, BudgetSpent, Spent
from dunwu.prompt.making.how import How, Maker
from dunwu.prompt.making.journal import Journal, opened, require_same
from dunwu.prompt.making.rules import OTHER_REASONS, RULES, Candidate, Method
from dunwu.prompt.making.sieve import SIMILAR_QUESTION, Sample, Sieve, as_json

MOST_EMPTY_ROUNDS = 10  # in a row; then the model has nothing new to say
WRITE_EVERY_S = 20.0
STOPPED = "stopped by "
_EMPTY_REASONS: Mapping[str, str] = {
    "unreadable_reply": "own: nothing of what was asked for in the answer",
    "same_input_again": "Self-Instruct: the same input with another output",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How many rows, and from whom. `model`: the name by which rows and the journal know the partner. `similar`: ROUGE-L from which a
    question is a near-duplicate; None is the method's own. `anew`: other settings than last time are meant. Raises RecipeError."""

    out: Path
    rows: int
    model: str
    seed: int = 0
    similar: float | None = None
    budget: Budget = field(default_factory=Budget)
    price: Price | None = None
    at_a_time: int = 1
    anew: bool = False

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise RecipeError(f"rows={self.rows} makes nothing; ask for at least 1")
        if self.similar is not None and not 0.1 <= self.similar <= 1:
            raise RecipeError(f"similar={self.similar} is a ROUGE-L; use 0.1 to 1 (1: equal texts alone)")
        if self.budget.cost is not None and self.price is None:
            raise RecipeError("a budget for cost needs a price; give the price of a million tokens")

    @property
    def folder(self) -> Path:
        """Where the journal and the summary lie."""
        return self.out.with_name(self.out.name + ".making")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of it. `ended`: why nothing more was made. `dropped`: candidates, and answers that gave none, by reason;
    `unanswered`: requests without an answer, by what the partner said. `asked`: answers of this run."""

    method: Method
    rows: int
    wanted: int
    ended: str
    dropped: Mapping[str, int]
    samples: Mapping[str, list[Sample]]
    unanswered: Mapping[str, int]
    spent: Spent
    asked: int

    def lines(self) -> list[str]:
        """For people."""
        spent = self.spent
        cost = f", {spent.cost:.4f} spent" if spent.cost else ""
        lines = [
            f"{self.rows} of {self.wanted} rows; {self.ended}",
            f"{spent.answers} answers ({self.asked} of them new), {spent.prompt_tokens:,} tokens read and {spent.completion_tokens:,} "
            f"written{cost}",
        ]
        if self.dropped:
            lines.append(f"{sum(self.dropped.values())} dropped:")
            known = reasons()
            lines += [
                f"  {count:>6} {reason:<24} {known.get(reason, '')}".rstrip() for reason, count in self.dropped.items()
            ]
        lines += [f"{count} without an answer: {why}" for why, count in self.unanswered.items()]
        return lines


def reasons() -> Mapping[str, str]:
    """Every reason to drop something: its source and threshold."""
    return (
        {rule.name: f"{rule.source}: {rule.threshold}" for rule in RULES} | dict(OTHER_REASONS) | dict(_EMPTY_REASONS)
    )


def make_data(
    maker: Maker,
    how: How,
    chat: Chat,
    wanted: Wanted,
    *,
    exam: ExamIndex | None = None,
    exam_hash: str = "",
    progress: Progress | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Summary:
    """Write `wanted.out`. Rows that are there stay as they are where only `rows` or the budget grew.

    `exam`, `exam_hash`: evaluation files that rows may have nothing in common with, and what names their content.
    Raises DataError where the file was made otherwise; DiskError where it cannot be written; what the partner raises when it does not
    answer. Whatever is raised, the rows that there are are written.
    """
    require_new_or_own(wanted)
    with opened(wanted.folder / "journal.jsonl") as journal:
        _settle(journal, _head(maker, how, wanted, exam_hash), wanted)
        progress = progress or SilentProgress()
        run = _Run(maker, chat, wanted, journal, exam, progress, stopping)
        try:
            ended = run.work()
        except BaseException:
            run.save("broken off", final=False)
            raise
        return run.save(ended, final=not ended.startswith(STOPPED))


def require_new_or_own(wanted: Wanted) -> None:
    """Raise DataError where `out` holds something that was not made here; DiskError where it is a folder."""
    if wanted.out.is_dir():
        raise DiskError(f"cannot write {wanted.out}: it is a folder; give the name of a file")
    journal = wanted.folder / "journal.jsonl"
    if wanted.out.exists() and not (journal.exists() and journal.stat().st_size):
        raise DataError(f"{wanted.out} exists, and was not made by this command; give another --out, or move it away")


def _settle(journal: Journal, head: Mapping[str, Any], wanted: Wanted) -> None:
    if journal.head and not wanted.anew:
        require_same(journal.head, head, wanted.out)
    if journal.head != head:
        if wanted.out.exists():
            _put_aside(wanted)
        journal.settle(head)


def _put_aside(wanted: Wanted) -> Path:
    """Keep the rows that are there under a name that is free."""
    names = ("before.jsonl", *(f"before-{number}.jsonl" for number in range(2, 10_000)))
    free = next(path for path in map(wanted.folder.joinpath, names) if not path.exists())
    with disk_errors(wanted.folder):
        wanted.out.replace(free)
    return free


def _head(maker: Maker, how: How, wanted: Wanted, exam_hash: str) -> dict[str, Any]:
    """All that shapes the rows, but for how many."""
    return {
        "method": maker.method,
        "model": wanted.model,
        "seed": wanted.seed,
        "similar": SIMILAR_QUESTION[maker.method] if wanted.similar is None else wanted.similar,
        "decontaminate": exam_hash,
        "wording": stable_hash(asdict(how.words))[:HASH_LENGTH],
        **asdict(how),
        **maker.inputs,
    }


class _Run:
    """One run: what was kept so far."""

    def __init__(
        self,
        maker: Maker,
        chat: Chat,
        wanted: Wanted,
        journal: Journal,
        exam: ExamIndex | None,
        progress: Progress,
        stopping: Callable[[], bool],
    ) -> None:
        self._maker, self._wanted, self._progress = maker, wanted, progress
        self._rows: list[Candidate] = []
        self._written_s, self._on_disk = monotonic(), _count_lines(wanted.out)
        self._sieve = Sieve(maker.method, similar=wanted.similar, exam=exam)
        self._asker = Asker(
            chat,
            journal,
            model=wanted.model,
            seed=wanted.seed,
            budget=wanted.budget,
            price=wanted.price,
            at_a_time=wanted.at_a_time,
            stopping=stopping,
            told=self._tell,
        )
        if journal.damaged:
            progress.note(
                f"{journal.path}: {journal.damaged} damaged lines are passed over; what they held is asked again"
            )

    def work(self) -> str:
        """Make rows until there are enough, or why not. Returns why it ended."""
        empty = 0
        try:
            for kept in self._maker.rounds(self._asker, self._sieve):
                self._rows += kept
                if len(self._rows) >= self._wanted.rows:
                    return "all that were wanted"
                if self._asker.over:
                    return f"{STOPPED}{self._asker.over}"
                empty = 0 if kept else empty + 1
                if empty == MOST_EMPTY_ROUNDS:
                    return f"nothing new in the last {empty} rounds"
                if monotonic() - self._written_s > WRITE_EVERY_S:
                    self._write_rows()
        except BudgetSpent as spent:
            return f"{STOPPED}{spent}"
        return "every document was asked about" if self._maker.method == "qa" else "every generation is done"

    def save(self, ended: str, *, final: bool) -> Summary:
        """Write the rows and the summary. Not `final`: rows of an earlier run that this one did not come to stay."""
        self._write_rows(final)
        summary = Summary(
            method=self._maker.method,
            rows=min(len(self._rows), self._wanted.rows),
            wanted=self._wanted.rows,
            ended=ended,
            dropped=dict(self._sieve.dropped.most_common()),
            samples=self._sieve.samples,
            unanswered=dict(self._asker.unanswered),
            spent=self._asker.spent,
            asked=self._asker.asked,
        )
        facts = {
            **asdict(summary),
            "samples": as_json(summary.samples),
            "reasons": dict(reasons()),
            "dunwu": __version__,
        }
        write_json(self._wanted.folder / "summary.json", facts)
        return summary

    def _write_rows(self, final: bool = False) -> None:
        """Whole; nothing where there is no row, since an empty file is no instruction file."""
        rows = self._rows[: self._wanted.rows]
        self._written_s = monotonic()
        if not rows or (not final and len(rows) <= self._on_disk):
            return
        lines = [json.dumps(as_row(row, self._wanted.seed), ensure_ascii=False) for row in rows]
        written = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        self._keep_edits(written)
        with atomic_write(self._wanted.out) as file:
            file.write(written)
        self._on_disk = len(rows)

    def _keep_edits(self, written: bytes) -> None:
        """Put aside what somebody changed in the rows by hand."""
        there = self._wanted.out.read_bytes() if self._wanted.out.exists() else b""
        if not written.startswith(there) and not there.startswith(written):
            kept = _put_aside(self._wanted)
            self._progress.note(f"{self._wanted.out} was changed since it was made; what it held is in {kept}")

    def _tell(self, spent: Spent) -> None:
        self._progress.update(
            min(len(self._rows), self._wanted.rows),
            self._wanted.rows,
            rows=str(len(self._rows)),
            dropped=str(self._sieve.dropped.total()),
            answers=str(spent.answers),
            tokens=f"{spent.tokens:,}",
        )


def _count_lines(file: Path) -> int:
    if not file.exists():
        return 0
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def as_row(candidate: Candidate, seed: int) -> dict[str, Any]:
    """A row as it is written: a conversation, and where it comes from."""
    return {
        "messages": [
            {"role": "user", "content": candidate.shown or candidate.question},
            {"role": "assistant", "content": candidate.answer},
        ],
        "provenance": {**candidate.provenance, "seed": seed},
    }
