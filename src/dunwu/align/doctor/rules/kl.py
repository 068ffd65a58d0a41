"""Divergence from the reference: not how far it is, but that it runs away."""

from statistics import fmean

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History
from dunwu.align.doctor.keys import KL, RATE
from dunwu.align.doctor.rules.common import HALF, WHOLE, has_fallen
from dunwu.align.doctor.trend import above_p, rise_p

FAR, GONE = 0.1, 1.0  # nats a token
TIMES = 2.0  # from window to window


def running_kl(history: History, config: DoctorConfig) -> Finding | None:
    """A warning when the divergence doubles, and doubles again, from one window of 8 steps to the next, beyond 0.1 nats a
    token. Lost when it is beyond 1 nat a token and still rises while the reward does not."""
    kl, length = history.of("kl"), history.of("answer_tokens")
    if len(kl) < 3 * HALF or not length:
        return None
    oldest, middle, latest = (kl.values[len(kl) - at * HALF : len(kl) - (at - 1) * HALF or None] for at in (3, 2, 1))
    now, per_token = fmean(latest), fmean(latest) / max(1.0, fmean(length.last(HALF)))
    if per_token < FAR:
        return None
    doubles = now > TIMES * fmean(middle) and fmean(middle) > TIMES * fmean(oldest)
    runs = doubles and above_p(middle, latest) < config.false_alarm * 10
    gone = per_token > GONE and rise_p(kl.last(2 * WHOLE)) < 0.01
    if not (runs or gone):
        return None
    reward = history.of("reward")
    worse = has_fallen(reward, config, window=HALF) if gone else False
    return Finding(
        "KL runs away",
        kl.since(lambda value: value > 2 * fmean(oldest)) if runs else kl.since(lambda value: value > now / 2),
        "lost" if worse else "warning",
        f"the divergence from the reference went from {fmean(oldest):.3g} to {now:.3g} nats an answer within {3 * HALF} steps, "
        f"{per_token:.2g} a token",
        f"raise {KL}, or lower {RATE}; go on from the best checkpoint",
    )
