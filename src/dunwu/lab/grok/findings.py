"""What the curves of a run say: when each member memorised, when it understood, and what moved first.

The rule of movement is one for all series: from its value when the member had memorised (training accuracy above 99%) to its
value when it had understood (held-out accuracy above 99%), a series has moved at the first look from which on it stays beyond
a tenth of the way, up to the look at which the member had understood. Held-out accuracy is put to the same rule. A series that goes less
than nowhere, such as a loss that ends where it began, has not moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dunwu.lab.grok.measures import Measures
from dunwu.lab.grok.plan import Member, Plan
from dunwu.lab.grok.run import Curves, first_step

WAY = 0.1
FACTOR = 10.0  # in steps, what counts as delayed


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Of one member. Steps are None where it did not happen; `moved`: of each series, the step at which it moved."""

    member: Member
    memorised: int | None
    understood: int | None
    last_held_out: float
    moved: Mapping[str, int | None]

    @property
    def factor(self) -> float | None:
        """How many times as many steps understanding took."""
        return None if self.memorised is None or self.understood is None else self.understood / self.memorised


def findings_of(plan: Plan, curves: Curves, measures: Sequence[Measures | None]) -> list[Finding]:
    """A finding for each member."""
    return [
        _finding(plan.members[number], number, curves, measures[number] if number < len(measures) else None)
        for number in range(len(plan.members))
    ]


def _finding(member: Member, number: int, curves: Curves, measures: Measures | None) -> Finding:
    memorised, understood = (first_step(curves.looks, number, name) for name in ("train", "held_out"))
    steps = [look.step for look in curves.looks]
    series = {"held-out accuracy": [look.held_out[number] for look in curves.looks]}
    series["weight norm"] = [look.norm[number] for look in curves.looks]
    if measures is not None:
        series |= {
            "embedding concentration": list(measures.embedding),
            "logit concentration": list(measures.logits),
            "restricted loss": list(measures.restricted_loss),
            "excluded loss": list(measures.excluded_loss),
        }
    moved: dict[str, int | None] = {}
    if memorised is not None and understood is not None:
        moved = {name: moved_at(steps, values, memorised, understood) for name, values in series.items()}
    return Finding(
        member=member,
        memorised=memorised,
        understood=understood,
        last_held_out=curves.looks[-1].held_out[number],
        moved=moved,
    )


def moved_at(steps: Sequence[int], values: Sequence[float], memorised: int, understood: int) -> int | None:
    """When a series moved, by the rule above; None where understanding came no later than memorising, or it ends where it began."""
    first, last = steps.index(memorised), steps.index(understood)
    way = values[last] - values[first] if last > first else 0.0
    if way == 0:
        return None
    gone = [(value - values[first]) / way >= WAY for value in values[first : last + 1]]
    stays = len(gone)
    while stays > 0 and gone[stays - 1]:
        stays -= 1
    return steps[first + stays]
