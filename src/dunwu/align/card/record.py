"""The card: a figure of a model a row, beside its change against the model that learned from conversations alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dunwu.align.doctor.finding import Finding
from dunwu.core.errors import DataError
from dunwu.core.files import read_json, write_json
from dunwu.core.nulls import with_nans, with_nulls
from dunwu.core.records import Score
from dunwu.evaluate.stats import PairedDifference

FORMAT = 1
ALPHA = 0.05

Better = Literal["more", "less", "neither"]
Direction = Literal["better", "worse", "same", "other"]

FIGURES: Mapping[str, tuple[str, Better]] = {
    "reward": ("reward on prompts that were kept out", "more"),
    "reward.": ("its part {}", "more"),
    "win_rate": ("win rate", "more"),
    "refusal.sound": ("sound questions refused", "less"),
    "refusal.false_premise": ("false premises accepted", "less"),
    "refusal.by_words": ("answers that sound like a refusal", "neither"),
    "exam.": ("exam, {}", "more"),
    "bits_per_byte": ("bits per byte of held-out text", "less"),
    "diversity.distinct_1": ("different tokens among answers to one prompt", "more"),
    "diversity.distinct_2": ("different pairs of tokens among them", "more"),
    "diversity.edit_distance": ("edit distance between them", "more"),
    "diversity.entropy": ("entropy while sampling", "neither"),
    "length": ("length of an answer", "neither"),
    "ended": ("answers that end by themselves", "more"),
}
"""Figures by name, or by how names begin, in the card's order: what they are, and whether more is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRow:
    """One figure of the model of `stage`; `change` is its own less that of the card's `against`, on the same prompts,
    questions or documents. P-values of one stage are adjusted for looking at all of its figures (Holm)."""

    figure: str
    stage: str
    score: Score
    change: PairedDifference | None = None

    @property
    def direction(self) -> Direction:
        """Better or worse, where the change leaves no doubt; "other" for a clear change that is neither."""
        change, better = self.change, meaning(self.figure)[1]
        if change is None or not change.p_value < ALPHA:
            return "same"
        if better == "neither":
            return "other"
        return "better" if (change.value > 0) == (better == "more") else "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentCard:
    """All rows, and how they came about.

    `against`: the stage that later models are compared with. `judge`: who said which answer wins. `refusals_by`: how refusals
    were told. `prompts` were answered once, and `sampled` of them `samples` times each. `findings`: the doctor's, on the run.
    """

    against: str
    judge: str
    refusals_by: str
    prompts: int
    sampled: int
    samples: int
    rows: tuple[CardRow, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def stages(self) -> list[str]:
        """The models, in their order."""
        return list(dict.fromkeys(row.stage for row in self.rows))

    @property
    def figures(self) -> list[str]:
        """What was measured, in the order of `FIGURES`."""
        order = list(FIGURES)
        return sorted(dict.fromkeys(row.figure for row in self.rows), key=lambda name: order.index(_key(name)))

    def row(self, figure: str, stage: str) -> CardRow | None:
        """A figure of a model, where it was measured."""
        return next((row for row in self.rows if (row.figure, row.stage) == (figure, stage)), None)


def meaning(figure: str) -> tuple[str, Better]:
    """What a figure is, in words, and whether more of it is better."""
    words, better = FIGURES[_key(figure)]
    return words.format(figure.partition(".")[2]), better


def _key(figure: str) -> str:
    return figure if figure in FIGURES else figure.partition(".")[0] + "."


def write_card(path: Path, card: AlignmentCard) -> None:
    """Write the card as JSON, whole or not at all."""
    rows = [
        {**asdict(row), "change": None if row.change is None else row.change._asdict(), "direction": row.direction}
        for row in card.rows
    ]
    findings = [asdict(finding) for finding in card.findings]
    plain = {**asdict(card), "rows": rows, "findings": findings}
    write_json(path, {"format": FORMAT, **with_nulls(plain)})


def read_card(path: Path) -> AlignmentCard:
    """Read what `write_card` wrote. Raises DataError when it is missing, damaged or of another format."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DataError(f"{path} is not an alignment card of format {FORMAT}; remove it and run the build again")
    try:
        rest = {key: data[key] for key in ("against", "judge", "refusals_by", "prompts", "sampled", "samples")}
        return AlignmentCard(
            **rest,
            rows=tuple(_row(row) for row in data["rows"]),
            findings=tuple(Finding(**finding) for finding in data["findings"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not hold an alignment card ({error}); remove it and run the build again"
        ) from error


def card_facts(card: AlignmentCard) -> dict[str, Any]:
    """The card in short, for `dunwu.json`."""
    rows = [
        {
            "figure": row.figure,
            "stage": row.stage,
            "value": row.score.value,
            "low": row.score.low,
            "high": row.score.high,
            "n": row.score.n,
            "unit": row.score.unit,
            "change": None if row.change is None else row.change.value,
            "p_value": None if row.change is None else row.change.p_value,
            "direction": row.direction,
        }
        for row in card.rows
    ]
    return with_nulls({"against": card.against, "judge": card.judge, "refusals_by": card.refusals_by, "rows": rows})


def _row(data: Mapping[str, Any]) -> CardRow:
    change = data["change"]
    return CardRow(
        figure=data["figure"],
        stage=data["stage"],
        score=Score(**with_nans(data["score"], "value", "low", "high")),
        change=None if change is None else PairedDifference(**with_nans(change, "value", "low", "high", "p_value")),
    )
