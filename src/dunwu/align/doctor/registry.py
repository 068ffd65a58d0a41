"""The doctor's rules, in the order in which they are told. A new rule is one file and a line here."""

from collections.abc import Callable

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.rules.clipping import high_rate
from dunwu.align.doctor.rules.end_of_turn import missing_end_of_turn
from dunwu.align.doctor.rules.engines import rollout_gap, wide_ratios
from dunwu.align.doctor.rules.entropy import collapsed_entropy, exploding_entropy
from dunwu.align.doctor.rules.held_out import falling_held_out
from dunwu.align.doctor.rules.kl import running_kl
from dunwu.align.doctor.rules.length import falling_length, rising_length
from dunwu.align.doctor.rules.no_variance import no_variance
from dunwu.align.doctor.rules.parts import parts_apart
from dunwu.align.doctor.rules.reward import falling_reward, no_learning, saturated_reward
from dunwu.align.doctor.rules.training import (
    growing_gradients,
    jumping_loss,
    rising_loss,
    skipped_batches,
    still_loss,
)
from dunwu.align.doctor.rules.value import useless_value

Rule = Callable[[History, DoctorConfig], Finding | None]

RULES: tuple[Rule, ...] = (
    rollout_gap,
    falling_reward,
    falling_held_out,
    parts_apart,
    running_kl,
    exploding_entropy,
    collapsed_entropy,
    no_variance,
    missing_end_of_turn,
    rising_length,
    falling_length,
    high_rate,
    wide_ratios,
    useless_value,
    no_learning,
    saturated_reward,
    skipped_batches,
)
"""Of reinforcement learning."""

TRAINING_RULES: tuple[Rule, ...] = (skipped_batches, rising_loss, growing_gradients, jumping_loss, still_loss)
"""Of all other training."""
