"""Whether counts come from a distribution: Pearson's χ²."""

from collections.abc import Sequence

import torch

DRAWS = 100_000


def counts_of(ids: Sequence[int], vocabulary: int) -> list[int]:
    return torch.bincount(torch.tensor(ids), minlength=vocabulary).tolist()


def comes_from(counts: Sequence[int], expected: Sequence[float]) -> bool:
    """χ² below its 99.99th percentile (Wilson and Hilferty's approximation), and nothing where nothing is expected."""
    total = sum(counts)
    pairs = [(count, total * share) for count, share in zip(counts, expected, strict=True) if share > 0]
    if total != sum(count for count, _ in pairs):
        return False
    if len(pairs) == 1:
        return True
    freedom = len(pairs) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 3.719 * (2 / (9 * freedom)) ** 0.5) ** 3
    return sum((count - mean) ** 2 / mean for count, mean in pairs) < limit
