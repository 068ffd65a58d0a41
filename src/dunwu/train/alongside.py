"""What may go along with a run: whoever makes the rows of its stream out of the model as it learns, and looks at how it goes.

The loop calls it at fixed places and knows nothing else of it. All that it decides must follow from its `state`, which every
checkpoint keeps, from the model at that step, and from what it was given.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

from dunwu.train.guard import GuardState, judge
from dunwu.train.signals import StopSignal


class Alongside(Protocol):
    """`unit`: what a position of the stream is called; `over`: whether the run should end here, whatever is left."""

    @property
    def unit(self) -> str: ...

    @property
    def over(self) -> bool: ...

    def before(self, step: int, row: int, stop: StopSignal) -> bool:
        """Make the rows from `row` on, to be learned after `step` updates; False when it left off because `stop` asks."""
        ...

    def judge(self, guard: GuardState, loss: float) -> str | None:
        """What is wrong with a loss, or None."""
        ...

    def figures(self, step: int) -> Mapping[str, float]:
        """What the row of metrics of this step, just done, should say beside. `batch_tokens`: how many positions it read."""
        ...

    def observe(self, row: Mapping[str, Any]) -> None:
        """Look at the row, as the metrics have it."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint keeps, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        ...


class Nothing:
    """The rows are there already."""

    unit = "tokens"
    over = False

    def before(self, step: int, row: int, stop: StopSignal) -> bool:
        return True

    def judge(self, guard: GuardState, loss: float) -> str | None:
        return judge(guard, loss)

    def figures(self, step: int) -> Mapping[str, float]:
        return {}

    def observe(self, row: Mapping[str, Any]) -> None:
        pass

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


def judge_finite(loss: float) -> str | None:
    """What is wrong with a loss that means nothing by its size, such as a policy's, or None."""
    return None if math.isfinite(loss) else f"the loss is {loss}"
