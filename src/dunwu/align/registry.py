"""The methods by name, as objectives for the loop. A new method is one file, its specification in `core/preference.py`, a line."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dunwu.align.answers import CHOSEN, REJECTED, Answers, judge_answers
from dunwu.align.objectives.cpo import cpo
from dunwu.align.objectives.dpo import dpo
from dunwu.align.objectives.ipo import ipo
from dunwu.align.objectives.kto import kto
from dunwu.align.objectives.orpo import orpo
from dunwu.align.objectives.simpo import simpo
from dunwu.align.objectives.verdict import Verdict
from dunwu.core.preference import PreferenceSpec
from dunwu.corpus.stream import Batch
from dunwu.model.decoder import Decoder

OBJECTIVES: Mapping[str, Callable[[Answers, Any], Verdict]] = {
    "dpo": dpo,
    "ipo": ipo,
    "kto": kto,
    "orpo": orpo,
    "simpo": simpo,
    "cpo": cpo,
}
"""`(answers, spec) → verdict`."""


class PreferenceObjective:
    """An objective for the loop: the mean loss over pairs, or over judged answers.

    Figures, means over the batch: `rewards_chosen`, `rewards_rejected` and their difference `reward_margin`;
    `reward_accuracy`, the share of pairs whose chosen answer has the higher reward; `logprobs_chosen` and
    `logprobs_rejected`, nats an answer; with a reference `kl_estimate`: by how many nats the model finds these answers
    likelier than the reference does. On answers of others it may fall below 0, where both become less likely.
    """

    def __init__(self, spec: PreferenceSpec) -> None:
        self.spec = spec
        self._method = OBJECTIVES[spec.name]

    def __call__(self, model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, dict[str, Tensor]]:
        answers = judge_answers(model, batch)
        verdict = self._method(answers, self.spec)
        loss = verdict.losses.sum() / total_learned
        share = len(verdict.losses) / total_learned  # of the batch: figures of micro-batches add up
        figures = _figures(answers, verdict, pairs=not self.spec.takes_single_answers)
        return loss, {name: value * share for name, value in figures.items()}


@torch.no_grad()
def _figures(answers: Answers, verdict: Verdict, *, pairs: bool) -> dict[str, Tensor]:
    chosen, rejected = answers.of(CHOSEN), answers.of(REJECTED)
    figures = {
        "rewards_chosen": _mean(verdict.chosen),
        "rewards_rejected": _mean(verdict.rejected),
        "logprobs_chosen": _mean(chosen.logprobs),
        "logprobs_rejected": _mean(rejected.logprobs),
        **{name: _mean(value) for name, value in verdict.more.items()},
    }
    figures["reward_margin"] = figures["rewards_chosen"] - figures["rewards_rejected"]
    if pairs:
        figures["reward_accuracy"] = _mean((verdict.chosen > verdict.rejected).float())
    if answers.reference_A is not None:
        figures["kl_estimate"] = _mean(torch.cat((chosen.log_ratios, rejected.log_ratios)))
    return figures


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, len(values))
