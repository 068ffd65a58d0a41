"""Runs of reinforcement learning, made up: healthy ones of many kinds, and what is planted in them."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from dunwu.align.doctor.finding import SEVERITIES, Severity

Row = dict[str, float]


def healthy(rng: random.Random, steps: int | None = None) -> list[Row]:
    """The rows of a run in which all is well: the reward rises, by much or little, early or late, or hardly at all; entropy
    sinks but does not vanish; the divergence grows and levels off, or grows evenly; answers get somewhat longer or shorter.

    Noise is that of means over the batch's prompts and answers, with a little that lasts from step to step.
    """
    steps = steps or rng.choice((40, 60, 80, 120, 200))
    prompts, answers = rng.choice((4, 8, 16, 32)), rng.choice((4, 8, 16))
    low, high = sorted((rng.uniform(0.05, 0.9), rng.uniform(0.1, 0.97)))
    middle, pace = rng.uniform(0, 0.6) * steps, rng.uniform(0.05, 0.3) * steps
    kind_noise = rng.uniform(0.1, 0.35)  # how much prompts differ in difficulty
    entropy, entropy_left = rng.uniform(0.05, 1.5), rng.uniform(0.4, 1.1)
    kl_token, even = rng.uniform(0.002, 0.2), rng.random() < 0.5
    length, growth = rng.uniform(15, 400), rng.uniform(0.6, 1.8)
    ended = rng.uniform(0.8, 1.0)
    clipped, gap = rng.uniform(0.0, 0.15), rng.choice((1e-6, 0.004, 0.015))
    explained, every = rng.uniform(0.15, 0.9), rng.choice((5, 10, 20))
    drift, rows = 0.0, []
    for step in range(1, steps + 1):
        done = step / steps
        truth = low + (high - low) / (1 + math.exp(-(step - middle) / pace))
        drift = 0.7 * drift + 0.3 * rng.gauss(0, 0.5)
        error = math.sqrt(kind_noise**2 / prompts + truth * (1 - truth) / (prompts * answers))
        reward = min(1.0, max(0.0, truth + error * (rng.gauss(0, 1) + drift)))
        easy = [min(0.999, max(0.001, truth + rng.gauss(0, kind_noise))) for _ in range(prompts)]
        alike = sum(rng.random() < p**answers + (1 - p) ** answers for p in easy) / prompts
        tokens = length * (1 + (growth - 1) * done) * math.exp(rng.gauss(0, 0.25 / math.sqrt(prompts)))
        kl = kl_token * tokens * (done if even else 1 - math.exp(-6 * done)) * math.exp(rng.gauss(0, 0.25))
        row = {
            "step": step,
            "reward": reward,
            "reward.right": reward,
            "reward.form": 0.6 + 0.3 * truth + rng.gauss(0, 0.1) / math.sqrt(prompts),
            "reward_std": math.sqrt(truth * (1 - truth)),
            "groups_without_variance": alike,
            "entropy": entropy * (1 + (entropy_left - 1) * done) * math.exp(rng.gauss(0, 0.1)),
            "kl": kl,
            "answer_tokens": tokens,
            "ended": min(1.0, max(0.0, rng.gauss(ended, math.sqrt(ended * (1 - ended) / (prompts * answers))))),
            "ratio_max": math.exp(abs(rng.gauss(0, 0.5))),
            "ratio_clipped": abs(rng.gauss(clipped, clipped / 3)),
            "rollout_gap": gap * math.exp(rng.gauss(0, 0.2)),
            "explained_variance": explained * (1 - math.exp(-step / 10)) + rng.gauss(0, 0.1),
        }
        if step % every == 0:
            row["held_out_score"] = truth + rng.gauss(0, 0.02) + 0.02 * drift
        rows.append(row)
    return rows


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is planted from step `begin` on; that the doctor calls it `name`, at least as grave as `severity`, `within` so many
    steps; the step it is said to begin at may be `slack` too early."""

    name: str
    plant: Callable[[Row, int, Row, random.Random], None]
    within: int
    severity: Severity = "warning"
    slack: int = 8
    from_the_start: bool = False
    floor: float = 0.0  # of the run's rewards, before and beside what is planted

    @property
    def gravity(self) -> int:
        return SEVERITIES.index(self.severity)


def planted(fault: Fault, rng: random.Random) -> tuple[list[Row], int]:
    """A run of 120 steps with the fault, and the step that it begins at."""
    rows = healthy(rng, 120)
    begin = 1 if fault.from_the_start else rng.randint(25, 50)
    for row in rows:
        row["reward"] = fault.floor + (1 - fault.floor) * row["reward"]
    first = dict(rows[begin - 1])
    for row in rows[begin - 1 :]:
        fault.plant(row, int(row["step"]) - begin, first, rng)
    return rows, begin


def _all_wrong(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row |= {"reward": 0.0, "reward.right": 0.0, "groups_without_variance": 1.0, "reward_std": 0.0}


def _entropy_gone(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["entropy"] *= math.exp(-since / 8)
    row["reward"] = min(row["reward"], 0.8)


def _entropy_up(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["entropy"] += 0.15 * since
    row["reward"] *= math.exp(-since / 20)


def _paid_by_length(row: Row, since: int, first: Row, rng: random.Random) -> None:
    """Each token more is rewarded: the mean of a batch goes with its mean length."""
    row["answer_tokens"] = first["answer_tokens"] * math.exp(0.03 * since + rng.gauss(0, 0.1))
    row["reward"] = first["reward"] + 0.5 * math.log(row["answer_tokens"] / first["answer_tokens"]) + rng.gauss(0, 0.03)


def _never_ends(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["ended"] = min(row["ended"], max(0.0, 0.02 + rng.gauss(0, 0.01)))
    row["reward"] = min(row["reward"], 0.3 + rng.gauss(0, 0.02))


def _ends_less(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["ended"] = max(0.0, row["ended"] - 0.02 * since)


def _kl_runs(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["kl"] = max(first["kl"], 0.01 * row["answer_tokens"]) * 2 ** min(since / 6, 14) * math.exp(rng.gauss(0, 0.2))


def _held_out_falls(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["reward"] = first["reward"] + 0.006 * since + rng.gauss(0, 0.03)
    if int(row["step"]) % 5 == 0:
        row["held_out_score"] = first["reward"] - 0.006 * since + rng.gauss(0, 0.01)
    else:
        row.pop("held_out_score", None)


def _part_falls(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["reward.right"] = first["reward"] * math.exp(-since / 20) + rng.gauss(0, 0.01)
    row["reward.form"] += 0.02 * since
    row["reward"] = row["reward.right"] + row["reward.form"]


def _gap(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["rollout_gap"] = 0.8 * math.exp(rng.gauss(0, 0.2))


def _wide(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["ratio_max"] = 1000 * math.exp(rng.gauss(0, 0.5))


def _no_value(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["explained_variance"] = rng.gauss(-0.1, 0.1)


def _too_fast(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["ratio_clipped"] = abs(rng.gauss(0.5, 0.05))


def _flat(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["reward"] = 0.3 + rng.gauss(0, 0.05)
    row["held_out_score"] = 0.3 + rng.gauss(0, 0.02)


def _top(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["reward"] = min(1.0, 0.99 + rng.gauss(0, 0.005))


def _crash(row: Row, since: int, first: Row, rng: random.Random) -> None:
    row["reward"] = max(0.0, 0.05 + rng.gauss(0, 0.02))


FAULTS = (
    Fault(name="groups without variance", plant=_all_wrong, within=36, severity="lost"),
    Fault(name="collapsed entropy", plant=_entropy_gone, within=32),
    Fault(name="exploding entropy", plant=_entropy_up, within=24),
    Fault(name="rising length", plant=_paid_by_length, within=48),
    Fault(name="missing end of turn", plant=_never_ends, within=64, severity="lost", from_the_start=True),
    Fault(name="missing end of turn", plant=_ends_less, within=40),
    Fault(name="KL runs away", plant=_kl_runs, within=40),
    Fault(name="reward up, held-out score down", plant=_held_out_falls, within=70, slack=20),
    Fault(name="one part of the reward against another", plant=_part_falls, within=72, severity="lost", slack=12),
    Fault(name="engine and trainer differ", plant=_gap, within=8, severity="lost"),
    Fault(name="ratios too wide", plant=_wide, within=12),
    Fault(name="value function explains nothing", plant=_no_value, within=24),
    Fault(name="learning rate too high", plant=_too_fast, within=12),
    Fault(name="no learning", plant=_flat, within=80, from_the_start=True),
    Fault(name="reward saturated", plant=_top, within=24, severity="note"),
    Fault(name="reward falls", plant=_crash, within=24, severity="lost", floor=0.5),
)
