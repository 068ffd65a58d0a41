"""What is to be run: the settings that all members share, and the members."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dunwu.core.errors import RecipeError
from dunwu.lab.grok.network import Shape
from dunwu.lab.grok.optimisers import NAMES
from dunwu.lab.grok.tasks import Table, new_table, split_rows

DONE = 0.99  # an accuracy that counts as having learned
WARMUP_STEPS = 10
BETAS = (0.9, 0.98)
AFTER = 1.1  # a run goes on to so many times the step at which its last member has understood


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network: what it starts from and is shown (`seed`, `fraction`), and how it is held back."""

    seed: int
    fraction: float
    weight_decay: float

    @property
    def label(self) -> str:
        """How figures call it."""
        return f"seed {self.seed}, {100 * self.fraction:g}%, decay {self.weight_decay:g}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run of an ensemble. Raises RecipeError where a value is out of its range.

    The defaults memorise half of the table of division in about a thousand steps, and understand it much later. A run ends before
    `steps` once all members with weight decay have understood, and a tenth more of steps has shown that they stay so.
    """

    task: str = "division"
    modulus: int = 97
    members: tuple[Member, ...] = (Member(seed=0, fraction=0.5, weight_decay=0.1),)
    optimizer: str = "adamw"
    lr: float = 0.0015
    batch: int = 512
    width: int = 64
    heads: int = 4
    depth: int = 1
    init_scale: float = 2.0
    steps: int = 60_000
    looks_per_decade: int = 24

    def __post_init__(self) -> None:
        _at_least("steps", self.steps, 10)
        _at_least("batch", self.batch, 1)
        _at_least("depth", self.depth, 1)
        _at_least("looks_per_decade", self.looks_per_decade, 1)
        _at_least("heads", self.heads, 1)
        if self.width < self.heads or self.width % self.heads:
            raise RecipeError(f"width={self.width} is not divisible by heads={self.heads}; use {self._wider()}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise RecipeError(f"lr={self.lr:g}: a learning rate is a number above 0; use 0.0015, say")
        if not (math.isfinite(self.init_scale) and self.init_scale > 0):
            raise RecipeError(f"init_scale={self.init_scale:g}: must be a number above 0; 1 is the usual start")
        if self.optimizer not in NAMES:
            raise RecipeError(f"optimizer {self.optimizer!r} is not known; use {', '.join(NAMES)}")
        if not self.members:
            raise RecipeError("no member: name at least one seed, fraction and weight decay")
        for member in self.members:
            if not (math.isfinite(member.weight_decay) and 0 <= member.weight_decay * self.lr < 1):
                raise RecipeError(
                    f"weight decay {member.weight_decay:g}: must be at least 0 and below 1 / lr = {1 / self.lr:g}"
                )
            _at_least("seed", member.seed, 0)
        if len(set(self.members)) < len(self.members):
            raise RecipeError("a seed, fraction or weight decay is named twice; name each once")

    def _wider(self) -> str:
        return str(self.heads * max(1, round(self.width / self.heads)))

    def table(self) -> Table:
        """The task's table, after a look whether every member's fraction leaves rows on both sides. Raises RecipeError."""
        table = new_table(self.task, self.modulus)
        for member in self.members:
            split_rows(len(table), member.fraction, seed=member.seed)
        return table

    def shape(self, table: Table) -> Shape:
        """The networks' size; the MLP is four times as wide as the stream."""
        return Shape(
            symbols=table.symbols,
            answers=table.symbols,
            width=self.width,
            heads=self.heads,
            depth=self.depth,
            inner=4 * self.width,
            init_scale=self.init_scale,
        )

    def looks(self) -> list[int]:
        """The steps after which all rows are tried: evenly on a log scale, the last among them."""
        count = round(self.looks_per_decade * math.log10(self.steps)) + 1
        return sorted({round(step) for step in np.geomspace(1, self.steps, count)} | {self.steps})

    def record(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {**asdict(self), "members": [asdict(member) for member in self.members]}


def members_of(
    seeds: Sequence[int], fractions: Sequence[float], decays: Sequence[float], *, control: bool
) -> tuple[Member, ...]:
    """Every combination; with `control` also one without weight decay for each fraction, of the first seed."""
    members = [Member(seed=s, fraction=f, weight_decay=w) for f in fractions for w in decays for s in seeds]
    if control and 0.0 not in decays:
        members += [Member(seed=seeds[0], fraction=fraction, weight_decay=0.0) for fraction in fractions]
    return tuple(members)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise RecipeError(f"{name}={value}: must be at least {least}")
