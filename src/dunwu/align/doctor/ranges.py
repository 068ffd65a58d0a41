"""What the least and the most is that an answer can be given, from the specifications of its reward."""

from collections.abc import Mapping, Sequence

from dunwu.core.rewards import JudgeReward, RewardSpec

Range = tuple[float, float]

SHARES: Mapping[str, Range] = {
    "exact": (0.0, 1.0),
    "math": (0.0, 1.0),
    "world": (0.0, 1.0),
    "schema": (0.0, 1.0),
    "code": (0.0, 1.0),
    "format": (0.0, 1.0),
    "length": (-1.0, 0.0),
}
MARKS: Range = (1.0, 10.0)


def reward_range(specs: Sequence[RewardSpec]) -> Range | None:
    """Of the weighted sum; None where a part's range is not known, as that of a reward model or a function without `clip`."""
    parts = [_of_part(spec) for spec in specs]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return sum(low for low, _ in known), sum(high for _, high in known)


def _of_part(spec: RewardSpec) -> Range | None:
    own = SHARES.get(spec.kind_name)
    if isinstance(spec, JudgeReward):
        own = MARKS if spec.mode == "mark" else (0.0, 1.0)
    if own is None and spec.clip is None:
        return None
    low, high = spec.clip if own is None and spec.clip is not None else _shaped(own or (0.0, 0.0), spec)
    return _ordered(low * spec.weight, high * spec.weight)


def _shaped(own: Range, spec: RewardSpec) -> Range:
    low, high = _ordered(own[0] * spec.scale, own[1] * spec.scale)
    least, most = spec.clip or (low, high)
    return min(max(low, least), most), min(max(high, least), most)


def _ordered(one: float, other: float) -> Range:
    return min(one, other), max(one, other)
