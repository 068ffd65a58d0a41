"""How often the conversations of several sources are met: in proportion to their number, with caps, weights and a temperature.

A source of e conversations counts as min(e, cap) (FLAN, arXiv:2109.01652); its share is weight · min(e, cap)^(1/temperature)
(T5, arXiv:1910.10683, §3.5.2): temperature 1 mixes by size, a high one evenly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Sources of `sizes` conversations, numbered through in their order, of which a pass takes `per_pass` each.

    Over the passes every conversation of a source is met equally often, to within one.
    """

    sizes: tuple[int, ...]
    per_pass: tuple[int, ...]

    @property
    def once(self) -> bool:
        """Whether a pass has each conversation once."""
        return self.sizes == self.per_pass

    @property
    def repeats(self) -> bool:
        """Whether all passes have the same conversations."""
        return all(count % size == 0 for size, count in zip(self.sizes, self.per_pass, strict=True))

    def members(self, seed: int, number: int) -> Array:
        """The numbers of the conversations in pass `number`, in no particular order."""
        begins = np.cumsum((0, *self.sizes[:-1]))
        sources = zip(range(len(self.sizes)), begins.tolist(), self.sizes, self.per_pass, strict=True)
        return np.concatenate(
            [begin + _drawn((seed, source), number * count, count, size) for source, begin, size, count in sources]
        )


def per_pass(
    sizes: Sequence[int], *, weights: Sequence[float], caps: Sequence[int | None], temperature: float
) -> tuple[int, ...]:
    """How many conversations of each source a pass takes, at least one: in all, the sum of weight · min(size, cap)."""
    capped = [min(size, cap or size) for size, cap in zip(sizes, caps, strict=True)]
    plain = [weight * count for weight, count in zip(weights, capped, strict=True)]
    rates = [weight * count ** (1.0 / temperature) for weight, count in zip(weights, capped, strict=True)]
    wanted = plain if temperature == 1 else [sum(plain) * rate / sum(rates) for rate in rates]
    return tuple(max(1, round(count)) for count in wanted)


def _drawn(key: tuple[int, int], first: int, count: int, size: int) -> Array:
    """Draws `first` to `first + count` from an endless row of shuffled decks of `size` cards."""
    if count % size == 0:
        return np.tile(np.arange(size), count // size)
    decks = range(first // size, (first + count - 1) // size + 1)
    cards = np.concatenate([_deck(key, deck, size) for deck in decks])
    start = first - decks[0] * size
    return cards[start : start + count]


def _deck(key: tuple[int, int], deck: int, size: int) -> Array:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((*key, deck))))
    return np.argsort(generator.random(size), kind="stable")
