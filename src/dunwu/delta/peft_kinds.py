"""The kinds of peft's adapters that are read. A new one is a reader beside its method, and a line here."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dunwu.core.deltas import DoraSpec, LoraSpec
from dunwu.delta.base import Delta
from dunwu.delta.dora import Dora
from dunwu.delta.ia3 import ia3_from_peft
from dunwu.delta.lora import Lora, of_pairs, read_spec
from dunwu.delta.peft_lora import read
from dunwu.delta.prefix import prefix_from_peft
from dunwu.delta.prompt import prompt_from_peft
from dunwu.delta.selective import norms_from_peft
from dunwu.delta.vera import vera_from_peft
from dunwu.model.decoder import Decoder

Reader = Callable[[Decoder, Mapping[str, Any], Mapping[str, Tensor]], Delta[Any]]


def lora_from_peft(model: Decoder, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lora:
    """LoRA, or DoRA where rows have lengths, from peft's files, not attached yet. Raises ModelError for what it cannot be."""
    pairs = read(model, config, tensors)
    if config.get("use_dora"):
        return of_pairs(Dora, model, read_spec(DoraSpec, config, pairs), pairs)
    return of_pairs(Lora, model, read_spec(LoraSpec, config, pairs), pairs)


PEFT_KINDS: Mapping[str, Reader] = {
    "LORA": lora_from_peft,
    "VERA": vera_from_peft,
    "IA3": ia3_from_peft,
    "PREFIX_TUNING": prefix_from_peft,
    "PROMPT_TUNING": prompt_from_peft,
    "P_TUNING": prompt_from_peft,
    "LN_TUNING": norms_from_peft,
}
"""`(model, config, tensors) → a delta that is not attached yet`."""
