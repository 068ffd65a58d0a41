"""The methods by name. A new one is one file here, its specification in `core/policy.py`, a line."""

from collections.abc import Callable, Mapping
from typing import Any

from dunwu.align.advantages.annotated import Annotated, Judged
from dunwu.align.advantages.distill import distill
from dunwu.align.advantages.grpo import grpo
from dunwu.align.advantages.ppo import ppo
from dunwu.align.advantages.reinforce_plus_plus import reinforce_plus_plus
from dunwu.align.advantages.rloo import rloo

ADVANTAGES: Mapping[str, Callable[[Judged, Any], Annotated]] = {
    "grpo": grpo,
    "rloo": rloo,
    "reinforce++": reinforce_plus_plus,
    "ppo": ppo,
    "distill": distill,
}
"""`(judged, spec) → annotated`."""
