"""What a ladder says of its target, in figures, in words, and as an experiment's page."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dunwu.core.units import format_bytes, format_count, format_duration
from dunwu.lab.ladder.answer import MORE, Interval, Oracle, Pace, Split, measure_pace
from dunwu.lab.ladder.fit import LadderFit, Runs, fit_ladder
from dunwu.lab.ladder.plan import Ladder, Target
from dunwu.lab.ladder.repeats import SAYS, epochs_until, worth
from dunwu.lab.record import Words

CONFIDENCE = 0.9
FAR = 100.0  # times the compute of the highest rung: a forecast so far above it is a guess


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of one target. Losses in nats a token of held-out text, `bits` in bits a byte of it. `worth_share`: of the tokens read, as
    fresh ones count; `idle_epochs`: passes after which ten times as many gain less than two seeds differ."""

    target: Target
    loss: Interval
    bits: Interval
    split: Split
    more_data: Interval
    more_compute: Split
    seconds: Interval
    epochs: float
    worth_share: float
    half_epochs: float
    idle_epochs: float


def runs_of(ladder: Ladder) -> Runs:
    """The rungs as points, their tokens as fresh ones count."""
    return Runs(
        size_R=np.array([rung.parameters for rung in ladder.rungs], np.float64),
        tokens_R=worth(np.array([rung.tokens for rung in ladder.rungs], np.float64), ladder.fresh_tokens),
        flops_R=np.array([rung.flops for rung in ladder.rungs], np.float64),
        loss_R=np.array([rung.loss for rung in ladder.rungs], np.float64),
    )


def oracle_of(ladder: Ladder, *, seed: int) -> Oracle:
    """The law through the rungs, ready to answer. Raises DataError where they tell none."""
    fit = fit_ladder(runs_of(ladder), seed=seed)
    return Oracle(fit=fit, family=ladder.family, fresh=ladder.fresh_tokens, confidence=CONFIDENCE)


def pace_of(ladder: Ladder) -> Pace:
    """What training takes here."""
    rungs = ladder.rungs
    return measure_pace(
        [rung.flops for rung in rungs], [rung.steps for rung in rungs], [max(rung.seconds, 1e-6) for rung in rungs]
    )


def answer(ladder: Ladder, oracle: Oracle) -> Answers:
    """Everything that is asked of a target; that of a budget has the size that is best for it."""
    split = oracle.best_split(ladder.target.flops)
    target = ladder.target
    if ladder.open_size:
        target = Target(
            size=split.size.value,
            tokens=split.tokens.value,
            flops=target.flops,
            batch_tokens=target.batch_tokens,
        )
    loss = oracle.loss(target.size, target.tokens)
    return Answers(
        target=target,
        loss=loss,
        bits=loss.times(1 / (math.log(2) * ladder.bytes_per_token)),
        split=split,
        more_data=oracle.loss(target.size, MORE * target.tokens),
        more_compute=oracle.best_split(MORE * target.flops),
        seconds=pace_of(ladder).seconds(target.flops, target.tokens, target.batch_tokens),
        epochs=target.tokens / ladder.fresh_tokens,
        worth_share=float(worth(target.tokens, ladder.fresh_tokens)) / target.tokens,
        half_epochs=epochs_until(0.5),
        idle_epochs=oracle.worth_repeating(target.size),
    )


def lines_of(
    ladder: Ladder, fit: LadderFit, answers: Answers, *, memory_bytes: int, price: float | None
) -> Iterator[str]:
    """For a terminal. `price`: of an hour of this machine."""
    return (english for english, _ in words_of(ladder, fit, answers, memory_bytes=memory_bytes, price=price))


def words_of(
    ladder: Ladder, fit: LadderFit, answers: Answers, *, memory_bytes: int, price: float | None
) -> Iterator[Words]:
    """For a person. `price`: of an hour of this machine."""
    target, bits = answers.target, 1 / (math.log(2) * ladder.bytes_per_token)
    above = target.flops / fit.largest_flops
    size, tokens, flops = format_count(target.size), format_count(target.tokens), f"{target.flops:.3g} FLOPs"
    yield (
        f"target: {size} parameters, {tokens} tokens{', the best for so much compute' if ladder.open_size else ''}; {flops}, "
        f"{above:.0f} times the highest rung" + ("; that is far, so take it as a guess" if above > FAR else ""),
        f"目标：{size} 参数，{tokens} 词元{'（同等算力下最佳）' if ladder.open_size else ''}；{flops}，为最高一级的 {above:.0f} 倍"
        + ("；外推很远，仅供参考" if above > FAR else ""),
    )
    yield (
        f"held-out bits per byte: {_shown(answers.bits)}; nats a token {_shown(answers.loss)}   ({CONFIDENCE:.0%} intervals)",
        f"保留文本每字节比特：{_shown(answers.bits)}；每词元 nat：{_shown(answers.loss)}（{CONFIDENCE:.0%} 区间）",
    )
    money = _money(answers.seconds, price)
    yield (
        f"time here: {_times(answers.seconds)}; memory {format_bytes(memory_bytes)}"
        + (f"; money {money} at {price:g} an hour" if price is not None else ""),
        f"本机用时：{_times(answers.seconds)}；内存 {format_bytes(memory_bytes)}"
        + (f"；费用 {money}（每小时 {price:g}）" if price is not None else ""),
    )
    yield _split_words("best split of so much compute", "同等算力的最佳分配", answers.split, bits)
    more_data = _shown(answers.more_data.times(bits))
    yield (
        f"ten times the data at that size: {more_data} bits per byte",
        f"规模不变、数据十倍：每字节 {more_data} 比特",
    )
    yield _split_words("ten times the compute, best split", "算力十倍、最佳分配", answers.more_compute, bits)
    yield _repeats(ladder, answers)
    yield (
        f"the law: {len(ladder.rungs)} rungs, {len(fit.draws)} draws; two seeds differ by {fit.noise:.2%}; what was foretold of upper "
        f"rungs drifts by {fit.drift:.2%} for each e-fold of compute",
        f"规律：{len(ladder.rungs)} 级，{len(fit.draws)} 次重抽样；两个种子相差 {fit.noise:.2%}；对上层的预测随算力每增 e 倍漂移 {fit.drift:.2%}",
    )
    for trial in fit.trials:
        bend, weight, untried = f"{trial.law.bend:g}", f"{trial.weight:.2f}", math.isinf(trial.error)
        yield (
            f"  bend {bend}: {'too few levels to try it' if untried else f'missed upper rungs by {trial.error:.2%}'}, weight {weight}",
            f"弯曲度 {bend}：{'级数太少，无法检验' if untried else f'对上层的预测误差 {trial.error:.2%}'}，权重 {weight}",
        )


def facts_of(
    ladder: Ladder, fit: LadderFit, answers: Answers, *, memory_bytes: int, price: float | None
) -> dict[str, Any]:
    """All figures."""
    seconds = answers.seconds
    return {
        "confidence": CONFIDENCE,
        "target": _plain(answers.target),
        "best_size_of_a_budget": ladder.open_size,
        "bits_per_byte": _plain(answers.bits),
        "nats_a_token": _plain(answers.loss),
        "seconds": _plain(seconds),
        "memory_bytes": memory_bytes,
        "money": None if price is None else _plain(seconds.times(price / 3600)),
        "price_an_hour": price,
        "best_split": _split(answers.split),
        "ten_times_the_data": _plain(answers.more_data),
        "ten_times_the_compute": _split(answers.more_compute),
        "repeats": {
            "fresh_tokens": ladder.fresh_tokens,
            "epochs": answers.epochs,
            "worth_share": answers.worth_share,
            "epochs_until_half_worth": answers.half_epochs,
            "epochs_until_nothing_is_gained": answers.idle_epochs if math.isfinite(answers.idle_epochs) else None,
            "source": SAYS[0],
        },
        "ladder": {
            "flops": sum(rung.flops for rung in ladder.rungs),
            "share_of_target": sum(rung.flops for rung in ladder.rungs) / answers.target.flops,
            "largest_share": max(rung.flops for rung in ladder.rungs) / answers.target.flops,
            "context_length": ladder.context_length,
            "bytes_per_token": ladder.bytes_per_token,
            "rungs": [_plain(rung) for rung in ladder.rungs],
        },
        "noise": fit.noise,
        "drift": fit.drift,
        "laws": [
            {
                "error": trial.error if math.isfinite(trial.error) else None,
                "weight": trial.weight,
                **_plain(trial.law),
            }
            for trial in fit.trials
        ],
    }


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _split(split: Split) -> dict[str, Any]:
    return {"flops": split.flops, **{name: _plain(getattr(split, name)) for name in ("size", "tokens", "loss")}}


def _split_words(english: str, chinese: str, split: Split, bits: float) -> Words:
    size, tokens, loss = _counts(split.size), format_count(split.tokens.value), _shown(split.loss.times(bits))
    return (
        f"{english}: {size} parameters, {tokens} tokens, {loss} bits per byte",
        f"{chinese}：{size} 参数，{tokens} 词元，每字节 {loss} 比特",
    )


def _repeats(ladder: Ladder, answers: Answers) -> Words:
    fresh, idle = format_count(ladder.fresh_tokens), answers.idle_epochs
    stops = (
        ("more passes go on paying as far as this law reaches", "在此规律所及的范围内，继续重复仍有收益")
        if math.isinf(idle)
        else (
            f"after {idle:.0f} passes ten times as many gain less than two seeds differ",
            f"{idle:.0f} 遍之后，再多十倍的收益小于两个种子之差",
        )
    )
    passes, share, half = f"{answers.epochs:.2g}", f"{answers.worth_share:.0%}", f"{answers.half_epochs:.0f}"
    return (
        f"repeats: {passes} passes over {fresh} tokens, worth {share} of so many fresh ones; after "
        f"{half} passes a further token is worth half a fresh one; {stops[0]}   ({SAYS[0]})",
        f"重复：{fresh} 词元读 {passes} 遍，价值为同样多新词元的 {share}；{half} 遍之后，每个词元只值新词元的一半；{stops[1]}（{SAYS[1]}）",
    )


def _shown(one: Interval) -> str:
    return f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]"


def _counts(one: Interval) -> str:
    return f"{format_count(one.value)} [{format_count(one.low)}, {format_count(one.high)}]"


def _times(one: Interval) -> str:
    return f"{format_duration(one.value)} [{format_duration(one.low)}, {format_duration(one.high)}]"


def _money(seconds: Interval, price: float | None) -> str:
    if price is None:
        return ""
    money = seconds.times(price / 3600)
    return f"{money.value:.3g} [{money.low:.3g}, {money.high:.3g}]"
