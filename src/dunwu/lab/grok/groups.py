"""Finite groups, and how functions on them fall apart into frequencies.

A function on a group is a sum of parts, one for each irreducible representation. On a cyclic group these are the frequencies
of the discrete Fourier transform; on the permutations of five letters there are seven. `P_ρ[g, h] = d/n · χ_ρ(g h⁻¹)` gives the
part of one representation (J.-P. Serre, Linear Representations of Finite Groups, theorem 8); networks that compose permutations
use just such parts (arXiv:2302.03025).

Shapes: `n` elements, `K` representations without the trivial one.
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Characters of S5 on its seven classes, by cycle type (G. James and M. Liebeck, Representations and Characters of Groups, 19.16).
_CYCLES = ((1, 1, 1, 1, 1), (2, 1, 1, 1), (3, 1, 1), (2, 2, 1), (4, 1), (3, 2), (5,))
_CHARACTERS = {
    "sign": (1, -1, 1, 1, -1, -1, 1),
    "standard (4)": (4, 2, 1, 0, 0, -1, -1),
    "standard × sign (4)": (4, -2, 1, 0, 0, 1, -1),
    "5": (5, 1, -1, 1, -1, 1, 0),
    "5 × sign": (5, -1, -1, 1, 1, -1, 0),
    "6": (6, 0, 0, -2, 0, 0, 1),
}
KEYS_OF_CYCLIC = 5  # frequencies that a network of arXiv:2301.05217 ends with
KEYS_OF_PERMUTATIONS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """A group of `order` elements. `parts_Knn`: a projector for each non-trivial representation, named by `names`.

    `keys`: how many representations are taken for a network's own.
    """

    name: str
    order: int
    names: tuple[str, ...]
    parts_Knn: np.ndarray
    keys: int

    @property
    def sizes_K(self) -> np.ndarray:
        """Dimensions of each part."""
        return np.round(np.trace(self.parts_Knn, axis1=1, axis2=2)).astype(int)


def cyclic(order: int, *, name: str = "") -> Group:
    """The numbers below `order` under addition; its real representations are frequencies 1 to order / 2."""
    between = np.subtract.outer(np.arange(order), np.arange(order))
    frequencies = range(1, order // 2 + 1)
    parts = [np.cos(2 * np.pi * k * between / order) * (1 if 2 * k == order else 2) / order for k in frequencies]
    return Group(
        name=name or f"addition mod {order}",
        order=order,
        names=tuple(map(str, frequencies)),
        parts_Knn=np.stack(parts),
        keys=min(KEYS_OF_CYCLIC, len(parts)),
    )


def additive(modulus: int) -> Group:
    """Addition modulo a number."""
    return cyclic(modulus)


def multiplicative(prime: int) -> tuple[Group, np.ndarray]:
    """Multiplication modulo a prime, and the discrete logarithm of each number: a cyclic group of prime - 1 elements.

    The logarithm is to the smallest primitive root; 0 has none, and gets -1.
    """
    logarithm = np.full(prime, -1)
    root = next(g for g in range(2, prime) if len({pow(g, e, prime) for e in range(prime - 1)}) == prime - 1)
    for exponent in range(prime - 1):
        logarithm[pow(root, exponent, prime)] = exponent
    return cyclic(prime - 1, name=f"multiplication mod {prime}, by logarithms to {root}"), logarithm


def permutations(elements: Sequence[tuple[int, ...]]) -> Group:
    """Permutations of five letters under composition, with their seven representations (the trivial one is left out)."""
    number = {element: n for n, element in enumerate(elements)}
    class_of = np.array([_CYCLES.index(_cycle_type(element)) for element in elements])
    inverse = [_inverse(element) for element in elements]
    quotient = np.array([[number[tuple(g[letter] for letter in h)] for h in inverse] for g in elements])
    classes = class_of[quotient]
    parts = [characters[0] / len(elements) * np.array(characters)[classes] for characters in _CHARACTERS.values()]
    return Group(
        name="S5",
        order=len(elements),
        names=tuple(_CHARACTERS),
        parts_Knn=np.stack(parts),
        keys=KEYS_OF_PERMUTATIONS,
    )


def _inverse(element: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(place) for place in np.argsort(element))


def _cycle_type(element: tuple[int, ...]) -> tuple[int, ...]:
    seen: set[int] = set()
    lengths = []
    for start in range(len(element)):
        length = 0
        while start not in seen:
            seen.add(start)
            start, length = element[start], length + 1
        if length:
            lengths.append(length)
    return tuple(sorted(lengths, reverse=True))
