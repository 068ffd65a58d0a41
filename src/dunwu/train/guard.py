"""What to do when a step goes wrong: skip its batch; if that does not help, go back and take other data.

Every decision depends on the state that a checkpoint holds and on nothing else, so a run that is killed and resumed decides
as one that was not. Going back to step s means: take the newest checkpoint at or before s, repeat the steps up to s exactly,
and there jump to data that has not been seen. So it does not matter which checkpoints happened to be written.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from dunwu.core.errors import TrainingError

WINDOW_STEPS = 64  # the accepted losses that the noise is estimated from
LEVEL_STEPS = 16  # the latest of them, whose median a new loss is compared with
FIRST_JUDGED_STEPS = 32  # before that only what is not finite counts: young curves fall and jump
SPIKE_SIGMAS = 10.0  # of the noise from step to step
SPIKE_NATS = 2.0  # and at least this far above the median: perplexity times 7
BAD_IN_A_ROW = 3  # bad batches before the weights, not the data, are suspected
REWIND_STEPS = 32
MAX_REWINDS = 3
RECENT_STEPS, MAX_RECENT_SKIPS = 100, 20


@dataclass(frozen=True, kw_only=True)
class Incident:
    """A step that went wrong at `step` with the rows from `row` on; `kind` is "skip" or "rewind"."""

    kind: str
    step: int
    row: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class GuardState:
    """What the guard remembers. `jumps`: pairs (step, row): having done `step` steps, go on at `row`."""

    recent: tuple[float, ...] = ()
    bad_in_a_row: int = 0
    incidents: tuple[Incident, ...] = ()
    jumps: tuple[tuple[int, int], ...] = ()

    def accept(self, loss: float) -> "GuardState":
        """The state after a good step."""
        return replace(self, recent=(*self.recent, loss)[-WINDOW_STEPS:], bad_in_a_row=0)

    def skip(self, step: int, row: int, reason: str) -> "GuardState":
        """The state after a batch was thrown away. Raises TrainingError when that happens all the time."""
        state = self.note(Incident(kind="skip", step=step, row=row, reason=reason))
        skips = sum(1 for i in state.incidents if i.kind == "skip" and i.step > step - RECENT_STEPS)
        if skips > MAX_RECENT_SKIPS and self.bad_in_a_row + 1 < BAD_IN_A_ROW:
            raise TrainingError(
                f"{skips} batches of the last {RECENT_STEPS} steps had to be skipped, at most {MAX_RECENT_SKIPS} may be; "
                f"the latest, at step {step + 1}: {reason}. Look for damaged text in the corpus, or lower the learning rate"
            )
        return replace(state, bad_in_a_row=self.bad_in_a_row + 1)

    @property
    def must_rewind(self) -> bool:
        """Whether so many batches in a row were bad that the weights must be."""
        return self.bad_in_a_row >= BAD_IN_A_ROW

    def rewind(self, step: int, row: int) -> tuple["GuardState", int]:
        """The memory to carry back from `step`, and the step to go back to; there the data goes on at `row`.

        Raises TrainingError after `MAX_REWINDS`.
        """
        reason = self.incidents[-1].reason
        if sum(1 for i in self.incidents if i.kind == "rewind") >= MAX_REWINDS:
            raise TrainingError(
                f"training diverged at step {step + 1} ({reason}) and {MAX_REWINDS} times going back did not help; "
                "lower the learning rate (lr_adamw, lr_muon), lengthen warmup_fraction, or look at the data"
            )
        target = max(0, step - REWIND_STEPS)
        note = f"{BAD_IN_A_ROW} bad batches in a row ({reason}); back to step {target}, on with other data"
        state = self.note(Incident(kind="rewind", step=step, row=row, reason=note))
        return replace(state, jumps=(*self.jumps, (target, row))), target

    def carry_into(self, earlier: "GuardState") -> "GuardState":
        """`earlier`, as a checkpoint held it, knowing what has happened since."""
        return replace(earlier, incidents=self.incidents, jumps=self.jumps)

    def landing(self, step: int, row: int) -> int:
        """The row to go on at, having done `step` steps: `row` unless a jump leads further."""
        return max([row, *(to for at, to in self.jumps if at == step)])

    def note(self, incident: Incident) -> "GuardState":
        """The state that knows of `incident`; a repeated step repeats its incidents, which are kept once."""
        return self if incident in self.incidents else replace(self, incidents=(*self.incidents, incident))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "GuardState":
        """The inverse of `to_json`."""
        return cls(
            recent=tuple(values["recent"]),
            bad_in_a_row=values["bad_in_a_row"],
            incidents=tuple(Incident(**incident) for incident in values["incidents"]),
            jumps=tuple((int(at), int(to)) for at, to in values["jumps"]),
        )


def judge(state: GuardState, loss: float) -> str | None:
    """What is wrong with a loss (nats a token), or None.

    A spike is more than `SPIKE_SIGMAS` robust deviations and more than `SPIKE_NATS` above the level of the last accepted
    losses; deviations alone would cry at every ripple of a smooth curve, nats alone at a noisy one. The deviation comes from
    the differences between neighbours, so a falling curve does not pass for noise.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if len(state.recent) < FIRST_JUDGED_STEPS:
        return None
    level = median(state.recent[-LEVEL_STEPS:])
    sigma = 1.4826 * median(abs(b - a) for a, b in pairwise(state.recent)) / math.sqrt(2)
    if loss <= level + max(SPIKE_SIGMAS * sigma, SPIKE_NATS):
        return None
    return f"the loss jumped to {loss:.3f} from a median of {level:.3f} nats"


def judge_gradient(norm: float) -> str | None:
    """What is wrong with a gradient's norm, or None."""
    return None if math.isfinite(norm) else f"the gradient's norm is {norm}"
