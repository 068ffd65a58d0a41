"""Weights of ours to those of a checkpoint and back, by the lists that families give."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dunwu.model.config import DecoderConfig
from dunwu.model.families import family_of
from dunwu.model.families.base import Piece, StoredTensor, whole


def place(piece: Piece, state: Mapping[str, Tensor]) -> Tensor:
    """Where in our weights a piece lies."""
    ours = state[piece.ours]
    return ours if piece.index is None else ours[piece.index]


def is_ours_as_it_is(stored: StoredTensor) -> bool:
    """Whether the stored tensor is one of our parameters under another name or the same."""
    return len(stored.pieces) == 1 and stored.pieces[0].index is None and stored.pieces[0].theirs is whole


def take(stored: StoredTensor, state: Mapping[str, Tensor]) -> Tensor:
    """The stored tensor, made of our weights; ours itself where no change is needed."""
    first = place(stored.pieces[0], state)
    if is_ours_as_it_is(stored):
        return first.detach()
    made = torch.empty(stored.shape, dtype=first.dtype, device=first.device)
    for piece in stored.pieces:
        piece.theirs(made).copy_(place(piece, state).detach())
    return made


def put(stored: StoredTensor, tensor: Tensor, state: Mapping[str, Tensor]) -> None:
    """Copy a stored tensor, which has the shape that it should, into our weights."""
    with torch.no_grad():
        for piece in stored.pieces:
            place(piece, state).copy_(piece.theirs(tensor))


def to_stored(state: Mapping[str, Tensor], config: DecoderConfig) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint of our weights, in order, one tensor at a time; a tied head is not repeated."""
    for stored in family_of(config.architecture).stored(config):
        yield stored.name, take(stored, state)


def from_stored(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], config: DecoderConfig) -> None:
    """Fill our weights, which are there already, with those of a checkpoint. Both are taken to be whole and of their shapes:
    the reader of files has checked that."""
    for stored in family_of(config.architecture).stored(config):
        put(stored, tensors[stored.name], state)
