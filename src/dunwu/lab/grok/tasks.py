"""The tables that are learned: two symbols in, one out.

Shapes: `R` rows of the table, `M` members of an ensemble.
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

import difflib
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dunwu.core.errors import RecipeError
from dunwu.lab.grok.groups import Group, additive, multiplicative, permutations

MODULUS_MOST = 257  # a table of 66,049 rows
MODULUS_LEAST = 5
LETTERS = 5  # of the permutations


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Every pair of symbols `a_R`, `b_R` and the answer `c_R`; symbols and answers are numbered from 0.

    `group`: where the answer is a product in a group, else None. `element_R`: which element of it each row's answer is, -1 where
    none (in division, a row whose answer is 0); `element_of_symbol`: likewise for each symbol that can be an input.
    """

    name: str
    formula: str
    symbols: int
    a_R: np.ndarray
    b_R: np.ndarray
    c_R: np.ndarray
    group: Group | None = None
    element_of_symbol: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.a_R)

    @property
    def element_R(self) -> np.ndarray:
        """The element of the group that each row's answer is; -1: none."""
        assert self.element_of_symbol is not None
        return self.element_of_symbol[self.c_R]


def new_table(name: str, modulus: int) -> Table:
    """The table of a task. Raises RecipeError for a task that is not known or a modulus that does not suit it."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        meant = f"did you mean {near[0]}? Tasks are" if near else "use"
        raise RecipeError(f"task {name!r} is not known: {meant} {', '.join(TASKS)}")
    if name != "s5":
        _require_prime(modulus)
    return TASKS[name](modulus)


def split_rows(count: int, fraction: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, drawn from `seed`.

    Raises RecipeError where the fraction is not between 0 and 1, or leaves nothing on one side.
    """
    if not 0 < fraction < 1:
        raise RecipeError(f"fraction={fraction:g}: a fraction of the table lies between 0 and 1; use 0.5, say")
    train = round(fraction * count)
    if train == 0:
        raise RecipeError(
            f"fraction={fraction:g} leaves no pair of {count} to train on; use at least {_up(1 / count):g}"
        )
    if train == count:
        raise RecipeError(
            f"fraction={fraction:g} leaves no pair of {count} held out; use at most {1 - _up(1 / count):g}"
        )
    order = np.random.default_rng([seed, 0]).permutation(count)
    return np.sort(order[:train]), np.sort(order[train:])


def _up(share: float) -> float:
    """A round share that is no less."""
    return float(np.ceil(share * 1000) / 1000)


def _require_prime(modulus: int) -> None:
    if not MODULUS_LEAST <= modulus <= MODULUS_MOST:
        raise RecipeError(f"modulus={modulus}: use a prime from {MODULUS_LEAST} to {MODULUS_MOST}, such as 97")
    if not is_prime(modulus):
        near = min(filter(is_prime, range(MODULUS_LEAST, MODULUS_MOST + 1)), key=lambda prime: abs(prime - modulus))
        raise RecipeError(
            f"modulus={modulus} is not prime ({_factor(modulus)} · {modulus // _factor(modulus)}), so not every number can be "
            f"divided by; use {near}"
        )


def _factor(number: int) -> int:
    return next(factor for factor in range(2, number + 1) if number % factor == 0)


def is_prime(number: int) -> bool:
    """Whether a number has no factor but 1 and itself."""
    return number > 1 and _factor(number) == number


def _modular(name: str, formula: str, function: Callable[[np.ndarray, np.ndarray, int], np.ndarray], grouped: bool):
    def make(modulus: int) -> Table:
        a_R, b_R = (grid.ravel() for grid in np.meshgrid(np.arange(modulus), np.arange(modulus), indexing="ij"))
        return Table(
            name=name,
            formula=f"{formula} mod {modulus}",
            symbols=modulus,
            a_R=a_R,
            b_R=b_R,
            c_R=function(a_R, b_R, modulus) % modulus,
            group=additive(modulus) if grouped else None,
            element_of_symbol=np.arange(modulus) if grouped else None,
        )

    return make


def _division(modulus: int) -> Table:
    a_R, b_R = (grid.ravel() for grid in np.meshgrid(np.arange(modulus), np.arange(1, modulus), indexing="ij"))
    inverse = np.array([0, *(pow(b, -1, modulus) for b in range(1, modulus))])
    group, logarithm = multiplicative(modulus)
    return Table(
        name="division",
        formula=f"a / b mod {modulus}",
        symbols=modulus,
        a_R=a_R,
        b_R=b_R,
        c_R=a_R * inverse[b_R] % modulus,
        group=group,
        element_of_symbol=logarithm,
    )


def _composition(modulus: int) -> Table:
    elements = list(itertools.permutations(range(LETTERS)))
    number = {element: n for n, element in enumerate(elements)}
    pairs = list(itertools.product(range(len(elements)), repeat=2))
    a_R, b_R = np.array(pairs).T
    c_R = [number[tuple(elements[a][letter] for letter in elements[b])] for a, b in pairs]  # b first, then a
    return Table(
        name="s5",
        formula="a ∘ b in S5",
        symbols=len(elements),
        a_R=a_R,
        b_R=b_R,
        c_R=np.array(c_R),
        group=permutations(elements),
        element_of_symbol=np.arange(len(elements)),
    )


TASKS: dict[str, Callable[[int], Table]] = {
    "addition": _modular("addition", "a + b", lambda a, b, p: a + b, True),
    "subtraction": _modular("subtraction", "a - b", lambda a, b, p: a - b, True),
    "division": _division,
    "quadratic": _modular("quadratic", "a² + ab + b²", lambda a, b, p: a * a + a * b + b * b, False),
    "s5": _composition,
}
