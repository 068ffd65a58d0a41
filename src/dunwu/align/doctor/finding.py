"""What the doctor found, and what it needs to know of a run."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["note", "warning", "lost"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "lost")
"""From the least grave on. A run that is lost does not come back by itself: it is stopped."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` of the rule; the `step` since which it is seen; what is seen, with its numbers; what to try, naming the recipe's
    keys. `told`: the step at which it was found."""

    name: str
    step: int
    severity: Severity
    says: str
    try_: str
    told: int = 0

    @property
    def gravity(self) -> int:
        """0 for a note, 2 for a run that is lost."""
        return SEVERITIES.index(self.severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorConfig:
    """What is known of a run beside its figures.

    `section`: of the recipe. `reward_range`: the least and the most that an answer can be given, where that is known.
    `answer_tokens`: the most tokens that an answer may have. `steps`: how many rollouts the run will have. `judge_every_steps`: how often
    the rules look; looking less often is cheaper and gives fewer false alarms. `false_alarm`: the level of each single test.
    """

    section: str = "rl"
    reward_range: tuple[float, float] | None = None
    answer_tokens: int | None = None
    steps: int | None = None
    judge_every_steps: int = 4
    false_alarm: float = 1e-4
