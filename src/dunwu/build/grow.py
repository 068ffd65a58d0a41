"""Rows for new tokens in a finished model: each begins as the mean of the rows of the old tokens that spell it.

Shapes: `V` vocabulary, `D` model width.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder


def grown_config(config: DecoderConfig, vocab_size: int) -> DecoderConfig:
    """The same shape with rows for `vocab_size` ids; rows that pad the vocabulary already are used up first."""
    return dataclasses.replace(config, vocab_size=max(config.vocab_size, vocab_size))


@torch.no_grad()
def grow_vocabulary(model: Decoder, *, first_id: int, pieces: Sequence[Sequence[int]]) -> None:
    """Give the ids from `first_id` on their rows, in place: in the embedding, and in the head where that is one of its own.

    `pieces`: of each new id the old ids that spell it. Old rows stay as they are, bit for bit.
    """
    config = grown_config(model.config, first_id + len(pieces))
    embedding_VD = _grown(model.model.embed_tokens.weight, config.vocab_size, first_id, pieces)
    model.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=embedding_VD)
    if not config.tie_word_embeddings:
        head_VD = _grown(model.lm_head.weight, config.vocab_size, first_id, pieces)
        with torch.device("meta"):
            model.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        model.lm_head.weight = nn.Parameter(head_VD)
    model.config = config


def _grown(rows_VD: Tensor, vocab_size: int, first_id: int, pieces: Sequence[Sequence[int]]) -> Tensor:
    grown_VD = rows_VD.new_zeros(vocab_size, rows_VD.shape[1])
    grown_VD[: len(rows_VD)] = rows_VD
    for i, ids in enumerate(pieces):
        grown_VD[first_id + i] = rows_VD[list(ids)].float().mean(dim=0)
    return grown_VD
