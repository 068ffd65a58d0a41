"""Group relative policy optimisation, with what Dr. GRPO and DAPO changed in it. Shapes: `A` answers, `G` prompts."""

import numpy as np

from dunwu.align.advantages.annotated import Annotated, Floats, Judged
from dunwu.core.policy import GrpoSpec

EPSILON = 1e-4  # TRL's


def grpo(judged: Judged, spec: GrpoSpec) -> Annotated:
    """`(r - mean of the group) / deviation of the group`, alike for all tokens of an answer (arXiv:2402.03300 section 4.1.2).

    The deviation is that of a sample (n - 1), as TRL takes it. `scale="none"`: no division, which weights prompts alike whether
    hard or easy (arXiv:2503.20783 section 3.1). With `dynamic_sampling` groups whose answers all scored alike are left out of the
    mean of the loss (arXiv:2503.14476 section 3.2); otherwise they count in it with advantages of 0.
    """
    scores_A = judged.scores_A + overlong_penalty(judged, spec.overlong_tokens)
    groups = judged.of_groups(scores_A)
    advantages = groups - groups.mean(1, keepdims=True)
    if spec.scale == "group":
        advantages /= groups.std(1, ddof=1, keepdims=True) + EPSILON
    alike_G = judged.alike_G(scores_A)
    advantages[alike_G] = 0.0  # a mean of equals may differ from them in the last place
    used_A = np.ones(len(scores_A), bool)
    if spec.dynamic_sampling:
        used_A &= ~np.repeat(alike_G, judged.count)
    if spec.cut_off == "leave_out":
        used_A &= judged.ended_A
    return Annotated(advantage_N=advantages.reshape(-1)[judged.answer_N], used_A=used_A)


def overlong_penalty(judged: Judged, tokens: int) -> Floats:
    """0 up to `tokens` before the limit, then falling in a line to -1 at it, `[A]` (soft overlong punishment, arXiv:2503.14476
    eq. 13, for a limit that ends every answer)."""
    if tokens == 0:
        return np.zeros(len(judged.tokens_A))
    over_A = judged.tokens_A - (judged.most_tokens - tokens)
    return -np.clip(over_A / tokens, 0.0, 1.0)
