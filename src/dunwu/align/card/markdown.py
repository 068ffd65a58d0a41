"""The card as text: a line a figure, a column a model."""

import math

from dunwu.align.card.record import AlignmentCard, CardRow, meaning

MARKS = {"better": "▲", "worse": "▼", "other": "◆", "same": ""}
_HEADLINES = (
    "reward",
    "win_rate",
    "refusal.sound",
    "refusal.false_premise",
    "bits_per_byte",
    "diversity.edit_distance",
    "ended",
)
_WORDS = {"better": "better", "worse": "worse", "other": "changed", "same": "no clear change"}
_LEGEND = "▲ better, ▼ worse, ◆ changed and neither; no mark: no clear change"


def card_markdown(card: AlignmentCard, *, heading: str = "# Alignment card") -> str:
    """The whole card, with what its figures rest on."""
    lines = [heading, "", *_table(card), "", _how(card)]
    if card.findings:
        lines += ["", "What the doctor said of the run:", "", *_findings(card)]
    return "\n".join(lines) + "\n"


def card_lines(card: AlignmentCard) -> list[str]:
    """The headlines for a terminal: each later model against the first."""
    lines = [f"alignment, against {card.against} (change with its 95% interval):"]
    for row in card.rows:
        if row.figure in _HEADLINES and row.change is not None:
            lines.append(
                f"  {row.stage:<9} {meaning(row.figure)[0]:<36} {_change(row)}  n={row.change.n}  {_WORDS[row.direction]}"
            )
    return lines


def _table(card: AlignmentCard) -> list[str]:
    stages = card.stages
    head = ["figure", "unit", *stages, f"change since {card.against}", "p", "n"]
    lines = [_line(head), _line(["---"] * len(head))]
    for figure in card.figures:
        rows = [card.row(figure, stage) for stage in stages]
        last = next(row for row in reversed(rows) if row is not None)
        lines.append(
            _line(
                [
                    meaning(figure)[0],
                    last.score.unit,
                    *("" if row is None else _value(row) for row in rows),
                    _change(last),
                    _p(last),
                    f"{last.score.n:,}",
                ]
            )
        )
    return lines


def _value(row: CardRow) -> str:
    score, mark = row.score, MARKS[row.direction]
    limits = f" [{score.low:.3g}, {score.high:.3g}]" if math.isfinite(score.low) else ""
    return f"{score.value:.3g}{limits}{' ' if mark else ''}{mark}"


def _change(row: CardRow) -> str:
    change = row.change
    if change is None:
        return ""
    limits = f" [{change.low:+.3g}, {change.high:+.3g}]" if math.isfinite(change.low) else ""
    return f"{change.value:+.3g}{limits}"


def _p(row: CardRow) -> str:
    if row.change is None or not math.isfinite(row.change.p_value):
        return ""
    return "< 0.001" if row.change.p_value < 0.001 else f"{row.change.p_value:.3f}"


def _how(card: AlignmentCard) -> str:
    parts = [
        f"95% intervals in brackets; changes are paired: the same prompts, questions or documents. P-values are adjusted for "
        f"looking at all figures of a model (Holm). {_LEGEND}.",
        f"Greedy answers to {card.prompts:,} prompts; for diversity {card.samples} answers at temperature 1 to each of "
        f"{card.sampled:,}.",
    ]
    if any(row.figure == "win_rate" for row in card.rows):
        parts.append(f"Who wins against {card.against} is decided by {card.judge}; a tie counts one half.")
    parts.append(f"Refusals are told by {card.refusals_by}.")
    return " ".join(parts)


def _findings(card: AlignmentCard) -> list[str]:
    return [
        f"- **{one.name}** ({one.severity}, since step {one.step:,}): {one.says} {one.try_}" for one in card.findings
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
