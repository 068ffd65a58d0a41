"""Several tokens from one forward: cheap proposals, accepted so that what comes out is distributed as without them.

A proposal for a place is a token together with the distribution that it was drawn from: all on one token for a look-up in the
text so far, the draft model's own for a draft model. The model that decides reads all proposed tokens at once; its distribution
at each place (filters, penalties and masks included: `infer.sampling.distribution` with the history up to there) says how far
they are taken, by the rule of arXiv:2211.17192 section 2.3 (and arXiv:2302.01318): token x is accepted with probability
min(1, p(x) / q(x)); at the first refusal a token is drawn from max(0, p - q), made to sum to 1; after all K were accepted, one
more from p. For greedy rows p is all on the likeliest, so that exactly the plain tokens come out.

All draws are `infer.sampling.draw` of seed, place and use, so that a request repeats itself after recomputation. Unlike without
speculation, a seed's tokens depend on what was proposed, hence on how many tokens at a time: their distribution does not.

Shapes: `K` proposed tokens, `V` vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dunwu.infer.sampling import History, SamplingParams, distribution, draw, pick


@dataclass(frozen=True, slots=True)
class Proposal:
    """`ids`, K tokens; `shares` [K, V] the distribution each was drawn from, None where it was certain (a look-up)."""

    ids: tuple[int, ...]
    shares: Tensor | None = None


def look_up(ids: Sequence[int], *, most: int, longest: int = 4, shortest: int = 2, window: int = 4096) -> Proposal:
    """What followed when the last few tokens stood in the text before, at most `most` tokens (prompt look-up decoding).

    The longest match of at most `longest` tokens and at least `shortest`, and the latest of these, within the last `window`
    tokens. Nothing where the ending is new. Of use where the answer quotes its prompt: code, summaries, retrieval.
    """
    text = [*ids[-window:]]
    for length in range(min(longest, len(text) - 1), shortest - 1, -1):
        ending = text[-length:]
        for start in range(len(text) - length - 1, -1, -1):
            if text[start] == ending[0] and text[start : start + length] == ending:
                return Proposal(tuple(text[start + length : start + length + most]))
    return Proposal(())


def draft(
    next_logits: Callable[[Sequence[int]], Tensor],
    params: SamplingParams,
    past: History,
    *,
    most: int,
    branch: int = 0,
) -> Proposal:
    """Let a small model of the same vocabulary write `most` tokens on.

    `next_logits`: the completion so far, drafted tokens included → the small model's logits for the next, [V]. The row's
    filters and penalties apply to the draft too, for the nearer it is to what decides, the more is accepted. `params` must be
    `resolved`. A grammar's mask need not be known here: what it forbids is refused.
    """
    completion = [*past.completion]
    ids: list[int] = []
    rows: list[Tensor] = []
    for _ in range(most):
        shares_1V = distribution(next_logits(completion)[None], [params], [History(past.prompt, completion)])
        ids += pick(shares_1V, [_drawn(params, len(completion), branch, "draft")])
        completion.append(ids[-1])
        rows.append(shares_1V[0])
    return Proposal(tuple(ids), torch.stack(rows) if rows else None)


def histories_of(past: History, proposal: Proposal) -> list[History]:
    """The history before each of the K + 1 places at which the deciding model's distribution is needed."""
    return [History(past.prompt, [*past.completion, *proposal.ids[:place]]) for place in range(len(proposal.ids) + 1)]


def accept(
    shares_KV: Tensor, proposal: Proposal, params: SamplingParams, written: int, *, branch: int = 0
) -> list[int]:
    """The tokens that come out: those accepted and one more, 1 to K + 1.

    `shares_KV`: the deciding model's distribution at the K + 1 places, [K + 1, V], as `distribution` gives it for the logits
    after the text and each proposed token. `written`: tokens of the completion before these.
    """
    assert len(shares_KV) == len(proposal.ids) + 1
    for place, number in enumerate(proposal.ids):
        target_V = shares_KV[place]
        share = 1.0 if proposal.shares is None else proposal.shares[place, number].item()
        if _drawn(params, written + place, branch, "accept") * share < target_V[number].item():
            continue
        drawn = _drawn(params, written + place, branch, "token")
        return [*proposal.ids[:place], *pick(_rest(target_V, proposal, place)[None], [drawn])]
    drawn = _drawn(params, written + len(proposal.ids), branch, "token")
    return [*proposal.ids, *pick(shares_KV[-1:], [drawn])]


def _rest(target_V: Tensor, proposal: Proposal, place: int) -> Tensor:
    """max(0, p - q), not normalised: what is still owed to each token once the proposed one was refused."""
    if proposal.shares is None:
        rest_V = target_V.clone()
        rest_V[proposal.ids[place]] = 0
    else:
        rest_V = (target_V.double() - proposal.shares[place].double()).clamp_(min=0)
    # Where p and q are equal up to rounding, a refusal has no probability and any of p's tokens will do.
    return rest_V if bool(rest_V.sum() > 0) else target_V


def _drawn(params: SamplingParams, index: int, branch: int, use: str) -> float:
    if params.greedy:
        return 0.0  # all is certain: what is accepted is the likeliest
    assert params.seed is not None, "params must be resolved"
    return draw(params.seed, index, branch=branch, use=use)
