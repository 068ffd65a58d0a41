"""Where a model's matrices lie in transformers' network of its family: the names and cuts that exchanged adapters go by.

One matrix of theirs may hold several of ours (Phi's queries, keys and values), rows taken in turns (gpt-oss's gates), or lie
transposed (GPT-2). Which, follows from the family's list of stored tensors: no second table.

Shapes: `O` outputs, `I` inputs, `E` experts.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from dunwu.core.errors import ModelError
from dunwu.delta.places import Place, places
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder
from dunwu.model.families import Piece, StoredTensor, family_of


@dataclass(frozen=True)
class Cut:
    """One of our matrices in a slot: its outputs are these rows of theirs. `expert`: it is that expert of our stack."""

    place: str
    rows: slice
    expert: int | None = None


@dataclass(frozen=True)
class Slot:
    """A linear layer of theirs, or a parameter that is a stack of experts, with `outputs` rows, an expert."""

    name: str
    outputs: int
    cuts: tuple[Cut, ...]
    is_parameter: bool = False
    transposed: bool = False


def slots(model: Decoder) -> dict[str, Slot]:
    """All slots by name; those of single experts, as transformers 4 had them, beside those of stacks, as transformers 5 has."""
    config, ours = model.config, places(model)
    found = [
        slot
        for stored in family_of(config.architecture).stored(config)
        if (slot := _of_stored(stored, ours)) is not None
    ]
    known = {slot.name: slot for slot in found}
    for slot in _stacks(config, ours):
        known.setdefault(slot.name, slot)
    return known


def slots_to_write(model: Decoder, chosen: Iterable[str]) -> list[Slot]:
    """The slots that hold the chosen places, in their order; of experts the stacks."""
    wanted = set(chosen)
    return [
        slot for slot in slots(model).values() if any(cut.place in wanted and cut.expert is None for cut in slot.cuts)
    ]


def slot_named(name: str, known: Mapping[str, Slot]) -> Slot:
    """The slot of that name. Raises ModelError where the model has none: the adapter is another base's, or reaches further."""
    if name in known:
        return known[name]
    if name.rpartition(".")[2] in ("lm_head", "embed_tokens", "wte", "wpe"):
        raise ModelError(
            f"the adapter changes {name}: dunwu adapts the matrices of the blocks alone; merge it in peft, and load the model "
            "that comes of it"
        )
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ModelError(
        f"the adapter changes {name}, which this model does not have (nearest: {near[0]}); it belongs to another base"
    )


def _of_stored(stored: StoredTensor, ours: Mapping[str, Place]) -> Slot | None:
    cuts: list[Cut] = []
    transposed = False
    for piece in stored.pieces:
        place = ours.get(piece.ours.removesuffix(".weight"))
        if place is None:
            return None
        cut, transposed = _cut(stored, piece, place)
        cuts.append(cut)
    stack = len(stored.shape) == 3
    outputs = stored.shape[-1] if transposed else stored.shape[-2]
    return Slot(stored.name.removesuffix(".weight"), outputs, tuple(cuts), stack, transposed)


def _cut(stored: StoredTensor, piece: Piece, place: Place) -> tuple[Cut, bool]:
    """The rows of a piece, read from the view that the family makes of the stored tensor."""
    whole = torch.empty(stored.shape, device="meta")
    view = piece.theirs(whole)
    inner, outer = stored.shape[-1], view.shape[-2]
    transposed = view.stride(-1) != 1
    unit = 1 if transposed else inner
    step, first = view.stride(-2) // unit, int(view.storage_offset()) // unit
    assert view.shape[-1] == place.inputs, "a family cuts matrices by rows"
    return Cut(place.name, slice(first, first + (outer - 1) * step + 1, step), piece.index), transposed


def _stacks(config: DecoderConfig, ours: Mapping[str, Place]) -> Iterable[Slot]:
    """Experts as transformers 5 holds them in memory, whatever the checkpoint does: gates above ups in one stack."""
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}.mlp.experts"
        if f"{at}.gate_proj" not in ours:
            continue
        size, width = ours[f"{at}.gate_proj"].outputs, ours[f"{at}.down_proj"].outputs
        both = Cut(f"{at}.gate_proj", slice(0, size, 1)), Cut(f"{at}.up_proj", slice(size, 2 * size, 1))
        yield Slot(f"{at}.gate_up_proj", 2 * size, both, is_parameter=True)
        yield Slot(f"{at}.down_proj", width, (Cut(f"{at}.down_proj", slice(0, width, 1)),), is_parameter=True)
