"""What the answers of conversations that were kept out of tuning cost a model.

Shapes: `T` tokens of a conversation, `V` vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from dunwu.core.records import Example, Score
from dunwu.corpus.conversations import encode_example
from dunwu.evaluate.stats import PairedDifference, paired_ratio_difference, ratio_interval
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.like import TokenizerLike


@dataclass(frozen=True, kw_only=True)
class AnswerBits:
    """Bits of the assistant's tokens, and how many these are, by conversation."""

    bits: tuple[float, ...]
    tokens: tuple[int, ...]

    def score(self, name: str) -> Score:
        """Bits a token of the answers."""
        estimate = ratio_interval(self.bits, self.tokens)
        return Score(
            name=name, value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n, unit="bits/token"
        )


@torch.inference_mode()
def answer_bits(
    model: Decoder, tokenizer: TokenizerLike, conversations: Sequence[Example], *, context_length: int
) -> AnswerBits:
    """Score the assistant's tokens, each after all that stands before it; of long conversations the newest tokens."""
    device = next(model.parameters()).device
    bits: list[float] = []
    counts: list[int] = []
    for example in conversations:
        tokens = encode_example(tokenizer, example)
        ids_T = torch.from_numpy(tokens.ids[-context_length - 1 :]).long().to(device)
        learned_T = torch.from_numpy(tokens.learned[-context_length - 1 :][1:].copy()).to(device)
        hidden = model(ids_T[None, :-1])[0][learned_T]
        nats = F.cross_entropy(model.logits(hidden).float(), ids_T[1:][learned_T], reduction="sum")
        bits.append(float(nats) / math.log(2))
        counts.append(int(learned_T.sum()))
    return AnswerBits(bits=tuple(bits), tokens=tuple(counts))


def difference(before: AnswerBits, after: AnswerBits) -> PairedDifference:
    """What changed on the same conversations under the same vocabulary, bits a token."""
    return paired_ratio_difference(before.bits, after.bits, after.tokens)
