"""The methods by name, and how one is attached. A new method is one file, its specification in `core/deltas.py`, a line here."""

from collections.abc import Callable, Mapping
from typing import Any

from dunwu.core.deltas import DeltaSpec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.delta.bitfit import BitFit
from dunwu.delta.bottleneck import Adapters
from dunwu.delta.dora import Dora
from dunwu.delta.eva import Eva
from dunwu.delta.fisher import FisherMask
from dunwu.delta.ia3 import Ia3
from dunwu.delta.lora import Lora
from dunwu.delta.pissa import Pissa
from dunwu.delta.prefix import Prefix
from dunwu.delta.prompt import Prompt
from dunwu.delta.selective import ByPattern, LastLayers, Norms
from dunwu.delta.vera import Vera
from dunwu.model.decoder import Decoder

DELTAS: Mapping[str, Callable[..., Delta[Any]]] = {
    "lora": Lora,
    "rslora": Lora,
    "lora_plus": Lora,
    "dora": Dora,
    "pissa": Pissa,
    "eva": Eva,
    "vera": Vera,
    "houlsby": Adapters,
    "pfeiffer": Adapters,
    "parallel_adapter": Adapters,
    "ia3": Ia3,
    "prefix": Prefix,
    "p_tuning_v2": Prefix,
    "prompt": Prompt,
    "bitfit": BitFit,
    "norms": Norms,
    "last_layers": LastLayers,
    "pattern": ByPattern,
    "fisher_mask": FisherMask,
}
"""`(model, spec, *, seed) → Delta`."""


def attach(model: Decoder, spec: DeltaSpec, *, seed: int) -> Delta[Any]:
    """Freeze the model and let a new delta change it. The same seed starts it the same.

    Raises ModelError where the specification does not fit the model: a pattern that fits nothing, a rank beyond a matrix's.
    """
    return attached(DELTAS[spec.name](model, spec, seed=seed))


def attached(delta: Delta[Any]) -> Delta[Any]:
    """The same delta, its hooks in its model."""
    delta.attach()
    return delta


def deltas_of(model: Decoder) -> tuple[Delta[Any], ...]:
    """What is attached to the model, in order."""
    return tuple(change for change in model.changes if isinstance(change, Delta))


def trained(deltas: tuple[Delta[Any], ...]) -> dict[str, Any]:
    """The parameters of several together, by name; those of the second and later with their number in front.

    Raises ModelError where there is nothing to train.
    """
    found = {
        name if number == 0 else f"{number}.{name}": parameter
        for number, delta in enumerate(deltas)
        for name, parameter in delta.trained().items()
    }
    if not found:
        raise ModelError("there is nothing to train: no delta is attached, or none has parameters that learn")
    return found
