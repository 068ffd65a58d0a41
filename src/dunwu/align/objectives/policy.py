"""The clipped policy gradient over tokens that somebody has given advantages. It knows no method: what makes them differ stands
in the batch's annotations and in the specification's common options.

Annotations of each learned token, beside those of `rows_of`: `advantage_N`; `weight_N`, what its loss counts; `engine_N`, its
log-probability by the engine that chose it; `old_N`, by the trainer before any update, absent where this is the first;
`reference_N`; `return_N` and `value_N`. Nats.

Shapes: `N` learned tokens, `D` model width, `V` vocabulary.
"""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dunwu.align.value import ValueModel
from dunwu.core.policy import PolicySpec, PpoSpec
from dunwu.corpus.stream import Batch
from dunwu.model.decoder import Decoder
from dunwu.train.logprobs import token_logprobs
from dunwu.train.objectives import causal_lm, chunk_rows_for, high


def clipped_loss(new_N: Tensor, old_N: Tensor, advantage_N: Tensor, *, low: float, high: float) -> Tensor:
    """`-min(ρ A, clip(ρ, 1 - low, 1 + high) A)` with `ρ = exp(new - old)`, `[N]` (arXiv:1707.06347 eq. 7; the two bounds apart:
    arXiv:2503.14476 eq. 10)."""
    ratio_N = (new_N - old_N).exp()
    return -torch.minimum(ratio_N * advantage_N, ratio_N.clamp(1.0 - low, 1.0 + high) * advantage_N)


def divergence(new_N: Tensor, reference_N: Tensor, estimator: str) -> Tensor:
    """An estimate of KL(new || reference) from tokens that `new` chose, `[N]`, nats (J. Schulman, joschu.net/blog/kl-approx,
    2020): with `r = p_ref / p_new`, k1 is `-log r`, k2 is `(log r)² / 2`, k3 is `r - 1 - log r`.

    As a loss k2's gradient is the divergence's own; k3's is that of the reverse divergence to the first order, and k1's has a
    mean of 0.
    """
    log_ratio_N = reference_N - new_N
    match estimator:
        case "k1":
            return -log_ratio_N
        case "k2":
            return 0.5 * log_ratio_N.square()
        case _:
            return log_ratio_N.exp() - 1.0 - log_ratio_N


def rollout_weights(trainer_N: Tensor, engine_N: Tensor, cap: float) -> Tensor:
    """By how much likelier the trainer finds each token than the engine that chose it, at most `cap`: truncated importance
    sampling for two programs that round differently (fengyao.notion.site/off-policy-rl, 2025)."""
    return (trainer_N - engine_N).exp().clamp(max=cap)


def value_loss(value_N: Tensor, before_N: Tensor, return_N: Tensor, *, clip: float) -> Tensor:
    """`max((v - R)², (clip(v, before ± clip) - R)²) / 2`, `[N]`: a value gains nothing by moving further than `clip` at a time
    (as in the code of arXiv:1909.08593). `clip` 0: no bound."""
    plain_N = (value_N - return_N).square()
    if clip:
        bounded_N = before_N + (value_N - before_N).clamp(-clip, clip)
        plain_N = torch.maximum(plain_N, (bounded_N - return_N).square())
    return 0.5 * plain_N


class PolicyObjective:
    """An objective for the loop: the weighted sum of the tokens' losses.

    Figures that add up: `policy_loss`, and where there are such `kl_loss`, `value_loss`, `pretraining_loss`. Those of a whole step
    come from `collected`.
    """

    def __init__(self, spec: PolicySpec, *, values: ValueModel | None = None) -> None:
        self.spec, self.values = spec, values
        self._seen: list[dict[str, Tensor]] = []

    def __call__(self, model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, dict[str, Tensor]]:
        spec, notes = self.spec, batch.annotations
        hidden_BTD = model(
            ids_BT=batch.ids_BT,
            positions_BT=batch.positions_BT,
            document_BT=batch.document_BT,
            branch_BT=batch.branch_BT,
        )
        hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, notes["at_N"])
        new_N, entropy_N = self._chances(model, hidden_ND, notes["target_N"])
        old_N = notes["old_N"] if "old_N" in notes else new_N.detach()
        weight_N = notes["weight_N"] / total_learned
        each_N = clipped_loss(new_N, old_N, notes["advantage_N"], low=spec.clip_low, high=spec.clip_high)
        if spec.rollout_cap:
            each_N = each_N * rollout_weights(old_N, notes["engine_N"], spec.rollout_cap)
        terms = {"policy_loss": (each_N * weight_N).sum()}
        if spec.beta and not spec.kl_in_reward:
            kl_N = divergence(new_N, notes["reference_N"], spec.kl)
            terms["kl_loss"] = spec.beta * (kl_N * weight_N).sum()
        if entropy_N is not None:
            terms["entropy_loss"] = -spec.entropy * (entropy_N * weight_N).sum()
        if isinstance(spec, PpoSpec):
            terms["value_loss"] = spec.value_weight * (self._value_losses(batch, spec) * weight_N).sum()
        if "text_ids_BT" in notes:
            terms["pretraining_loss"] = spec.pretraining * self._text_loss(model, notes)
        self._see(new_N, old_N, notes)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def collected(self) -> dict[str, float]:
        """Of the tokens seen since the last call: `ratio_max`, the most by which the trainer finds one likelier than the engine
        did; `ratio_clipped`, the share that lies beyond the bounds of what counts; `gap_now`, the mean difference to the engine's
        log-probabilities, nats; `kl_now`, the divergence of an answer from the reference (k1), nats, where there is one."""
        seen, self._seen = self._seen, []
        if not seen:
            return {}
        count = max(1.0, float(torch.stack([one["count"] for one in seen]).sum()))
        total = {name: float(torch.stack([one[name] for one in seen]).sum()) / count for name in ("clipped", "gap")}
        most = float(torch.stack([one["most"] for one in seen]).max())
        figures = {"ratio_max": math.exp(min(most, 80.0)), "ratio_clipped": total["clipped"], "gap_now": total["gap"]}
        if all("kl" in one for one in seen):
            answers = sum(float(one["answers"]) for one in seen)
            figures["kl_now"] = float(torch.stack([one["kl"] for one in seen]).sum()) / max(1.0, answers)
        return figures

    @torch.no_grad()
    def _see(self, new_N: Tensor, old_N: Tensor, notes: Mapping[str, Tensor]) -> None:
        if not len(new_N):
            return
        ratio_N = (new_N - old_N).exp()
        beyond_N = (ratio_N < 1.0 - self.spec.clip_low) | (ratio_N > 1.0 + self.spec.clip_high)
        gap_N = new_N - notes["engine_N"]
        self._seen.append(
            {
                "count": gap_N.new_tensor(len(gap_N)),
                "clipped": beyond_N.sum().to(gap_N.dtype),
                "gap": gap_N.abs().sum(),
                "most": gap_N.max(),
            }
        )
        if "reference_N" in notes:
            self._seen[-1] |= {
                "kl": (new_N - notes["reference_N"]).sum(),
                "answers": gap_N.new_tensor(len(notes["tokens_A"])),
            }

    def _chances(self, model: Decoder, hidden_ND: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor | None]:
        softcap = model.config.logits_softcap
        if not self.spec.entropy:
            return token_logprobs(hidden_ND, model.head_weight, target_N, softcap=softcap), None
        rows = chunk_rows_for(hidden_ND, model.head_weight)
        parts = [
            cast("tuple[Tensor, Tensor]", checkpoint(_chances, model, hidden, target, use_reentrant=False))
            for hidden, target in zip(hidden_ND.split(rows), target_N.split(rows), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _value_losses(self, batch: Batch, spec: PpoSpec) -> Tensor:
        assert self.values is not None, "values are learned by a model of their own"
        notes = batch.annotations
        value_N = self.values.values(batch)
        return value_loss(value_N, notes["value_N"], notes["return_N"], clip=spec.value_clip)

    def _text_loss(self, model: Decoder, notes: Mapping[str, Tensor]) -> Tensor:
        """The mean loss of a text's token, times the share of the step's rows that this batch has."""
        text = Batch(
            ids_BT=notes["text_ids_BT"],
            targets_BT=notes["text_targets_BT"],
            positions_BT=notes["text_positions_BT"],
            document_BT=notes["text_document_BT"],
            learned_tokens=0,
        )
        learned = int((text.targets_BT >= 0).sum())
        return causal_lm(model, text, total_learned=max(1, learned))[0] * notes["text_share"]


def _chances(model: Decoder, hidden_ND: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities of tokens, and the entropy of what each was chosen from, nats."""
    logits_NV = model.logits(hidden_ND)
    logprobs_NV = F.log_softmax(logits_NV.to(high(logits_NV.dtype)), dim=-1)
    return logprobs_NV.gather(1, target_N[:, None])[:, 0], -(logprobs_NV.exp() * logprobs_NV).sum(-1)
