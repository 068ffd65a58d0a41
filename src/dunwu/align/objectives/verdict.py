"""What a method says of answers: the loss of each pair or answer, and the reward that it implies."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """`losses`: nats, of each pair `[P]` or each judged answer. `chosen` and `rejected`: implied rewards, detached; `more`:
    what else is worth watching, a value for each of the losses, detached."""

    losses: Tensor
    chosen: Tensor
    rejected: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
