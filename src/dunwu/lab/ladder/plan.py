"""Which small trainings a forecast rests on: sizes and tokens at a few levels of compute, all far below the target's.

At each level three sizes: the target's own tokens a parameter, and half and twice that size. So both what size gives and what
tokens give are seen, and the target lies on a line that the ladder climbs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.units import format_count

LARGEST = 1 / 30  # of the target's compute, for one rung
LEVELS = 4  # of compute, each half of the one before
SIZES = (0.5, 1.0, 2.0)  # of the size that has the target's tokens a parameter
SEEDS_AGAIN = 2  # more seeds of a rung of the lowest level, where they cost next to nothing
LEAST_RUNGS = 6
LEAST_STEPS = 60
LEAST_ROWS = 2
LEAST_TOKENS_AN_ENTRY = (
    40  # of the vocabulary: with fewer a run is still learning single words, and follows no law of later ones
)
MOST_EPOCHS = 4.0  # repeats up to here are nearly worth fresh text (arXiv:2305.16264)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model that the ladder may train, with what a token of its training costs."""

    hidden_size: int
    layers: int
    parameters: int
    flops_per_token: float


class Family:
    """The shapes of all sizes, and what sizes between them cost."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.shapes = tuple(sorted(shapes, key=lambda shape: shape.parameters))

    def flops_per_token(self, size: float) -> float:
        """Of training a model of `size` parameters; between shapes, and beyond them, in a straight line of logarithms."""
        shapes = self.shapes
        above = next((at for at, shape in enumerate(shapes) if shape.parameters >= size), len(shapes) - 1)
        low, high = shapes[max(0, above - 1)], shapes[max(1, above)]
        step = math.log(high.parameters / low.parameters)
        slope = math.log(high.flops_per_token / low.flops_per_token) / step
        return low.flops_per_token * (size / low.parameters) ** slope

    def nearest(self, size: float) -> Shape:
        """The shape of about so many parameters."""
        return min(self.shapes, key=lambda shape: abs(math.log(shape.parameters / size)))

    def size_for(self, flops: float, tokens_a_parameter: float) -> float:
        """Parameters of the model that so much compute trains on so many tokens for each of them."""
        low, high = math.log(1e3), math.log(1e13)
        for _ in range(80):
            middle = (low + high) / 2
            size = math.exp(middle)
            low, high = (
                (middle, high) if self.flops_per_token(size) * size * tokens_a_parameter < flops else (low, middle)
            )
        return math.exp((low + high) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The training to be forecast: parameters, tokens, FLOPs, and tokens of a batch."""

    size: float
    tokens: float
    flops: float
    batch_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One small training."""

    shape: Shape
    tokens: int
    batch_rows: int
    seed: int

    @property
    def flops(self) -> float:
        """Of its training."""
        return self.tokens * self.shape.flops_per_token


@dataclass(frozen=True, kw_only=True)
class RungResult:
    """A finished rung. Loss in nats a token of the held-out text; `seconds` of training, scoring apart."""

    hash: str
    hidden_size: int
    layers: int
    parameters: int
    tokens: int
    batch_tokens: int
    steps: int
    seed: int
    flops: float
    loss: float
    bits_per_byte: float
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """All that a forecast rests on. `open_size`: the target is a budget, whose best size the ladder is to tell."""

    target: Target
    open_size: bool
    family: Family
    rungs: tuple[RungResult, ...]
    context_length: int
    fresh_tokens: int
    bytes_per_token: float
    vocab_size: int


def plan_ladder(
    target: Target,
    family: Family,
    *,
    context_length: int,
    corpus_tokens: int,
    vocab_size: int,
    seed: int,
    largest: float = LARGEST,
    levels: int = LEVELS,
) -> tuple[Rung, ...]:
    """The rungs, cheapest first. Raises RecipeError where the target is too small for a ladder, DataError where text is too little."""
    rungs: dict[tuple[int, int], Rung] = {}
    for level in range(levels):
        flops = target.flops * largest / 2**level
        middle = family.size_for(flops, target.tokens / target.size)
        for shape in _three(family, middle):
            rung = _rung(shape, flops, target, context_length, seed)
            if rung is not None and rung.tokens >= LEAST_TOKENS_AN_ENTRY * vocab_size:
                rungs[shape.parameters, level] = rung
    if len(rungs) < LEAST_RUNGS:
        raise RecipeError(_too_small(target, family, context_length, vocab_size, largest))
    found = sorted(rungs.values(), key=lambda rung: rung.flops)
    _require_text(found, corpus_tokens)
    again = found[1]
    seeds = [
        Rung(shape=again.shape, tokens=again.tokens, batch_rows=again.batch_rows, seed=seed + 1 + number)
        for number in range(SEEDS_AGAIN)
    ]
    return (*found[:2], *seeds, *found[2:])


def _three(family: Family, middle: float) -> list[Shape]:
    """Shapes of about half, once and twice that size; the smallest ones where there are none so small."""
    found = list(dict.fromkeys(family.nearest(middle * factor) for factor in SIZES))
    spare = [shape for shape in family.shapes if shape not in found and shape.parameters > found[-1].parameters]
    return found + spare[: len(SIZES) - len(found)]


def _rung(shape: Shape, flops: float, target: Target, context_length: int, seed: int) -> Rung | None:
    """None where so few tokens are no training. Batches shrink with the root of the tokens: short runs want many steps."""
    tokens = flops / shape.flops_per_token
    whole = max(1, target.batch_tokens // context_length)
    rows = min(whole, max(LEAST_ROWS, round(whole * math.sqrt(tokens / target.tokens))))
    steps = int(tokens / (rows * context_length))
    if steps < LEAST_STEPS:
        rows = max(LEAST_ROWS, int(tokens / (LEAST_STEPS * context_length)))
        steps = int(tokens / (rows * context_length))
    if steps < LEAST_STEPS:
        return None
    return Rung(shape=shape, tokens=steps * rows * context_length, batch_rows=rows, seed=seed)


def _too_small(target: Target, family: Family, context_length: int, vocab_size: int, largest: float) -> str:
    smallest = family.shapes[:3]
    tokens = max(LEAST_STEPS * LEAST_ROWS * context_length, LEAST_TOKENS_AN_ENTRY * vocab_size)
    least = 2 * max(shape.flops_per_token for shape in smallest) * tokens / largest
    return (
        f"the target's {target.flops:.2g} FLOPs are too few for a ladder below it: a rung may take 1/{1 / largest:.0f} of them, and "
        f"even models of {format_count(smallest[0].parameters)} to {format_count(smallest[-1].parameters)} parameters must read "
        f"{format_count(tokens)} tokens to follow a law; forecast a target of {least:.1g} FLOPs or more, take a smaller vocabulary, or "
        "train this one: it takes moments"
    )


def _require_text(rungs: Sequence[Rung], corpus_tokens: int) -> None:
    most = max(rungs, key=lambda rung: rung.tokens)
    if most.tokens > MOST_EPOCHS * corpus_tokens:
        raise DataError(
            f"the corpus has {format_count(corpus_tokens)} tokens of training text, and a rung of the ladder "
            f"({format_count(most.shape.parameters)} parameters) would read {format_count(most.tokens)}, more than "
            f"{MOST_EPOCHS:g} times all of it; add documents, or forecast a smaller target"
        )
