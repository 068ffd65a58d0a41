"""What goes along with a run of policy gradients: it asks the live model, lets its answers be judged, and gives the loop rows.

What a rollout gives follows from the weights at that step, the seed and its number alone, and lies on disk before anything is
learned from it: a run that is killed anywhere ends in the weights of one that was not.

Shapes: `A` answers, `N` tokens of all answers.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dunwu.align.advantages.ppo import steered
from dunwu.align.answers import Item
from dunwu.align.experience import (
    Experience,
    item_of,
    prune_experience,
    read_experience,
    write_experience,
)
from dunwu.align.objectives.policy import PolicyObjective
from dunwu.align.reading import Floats, Precision, logprobs_of_tokens, read_tokens
from dunwu.align.rollout import GREEDY, Sampled, Sampler, Sampling, seed_of
from dunwu.align.rollout_stream import RolloutStream
from dunwu.align.value import ValueModel
from dunwu.core.errors import CheckpointError, DataError
from dunwu.core.policy import ChoosingSpec, PpoSpec
from dunwu.core.progress import Progress
from dunwu.corpus.stream import epoch_key, permuted
from dunwu.evaluate.scorers.base import Case, Scored
from dunwu.model.decoder import Decoder
from dunwu.train.alongside import judge_finite
from dunwu.train.guard import GuardState
from dunwu.train.signals import StopSignal

Reward = Callable[[Sequence[Case]], Scored]
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A prompt: its ids as the chat template makes them, and what is needed to judge its answers."""

    ids: tuple[int, ...]
    case: Case


class Finding(Protocol):
    """What a doctor of runs says."""

    @property
    def severity(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def says(self) -> str: ...
    @property
    def try_(self) -> str: ...


class Observer(Protocol):
    """Who looks at a run's rows."""

    def observe(self, row: Mapping[str, Any], step: int) -> Sequence[Finding]: ...


class Unwatched:
    """Nobody looks."""

    def observe(self, row: Mapping[str, Any], step: int) -> Sequence[Finding]:
        return ()


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """`prompts` of a rollout, and `completions` to each; every `eval_every` updates the prompts that are kept out are answered.
    Rollouts are kept in `folder` as far back as its checkpoints reach."""

    prompts: int
    completions: int
    sampling: Sampling
    eval_every: int
    seed: int
    folder: Path
    key: str


class PolicyRun:
    """See the module. `reference`: the log-probabilities of items' tokens under the model as it was; `keep_best`: called with a
    step when no other has scored higher on the prompts that are kept out; `watch` makes an observer from the rows so far."""

    unit = "prompts"

    def __init__(
        self,
        model: Decoder,
        stream: RolloutStream,
        objective: PolicyObjective,
        sampler: Sampler,
        reward: Reward,
        pool: Sequence[Asked],
        held_out: Sequence[Asked],
        settings: RunSettings,
        progress: Progress,
        *,
        reference: Callable[[Sequence[Item]], Floats] | None = None,
        values: ValueModel | None = None,
        precision: Precision = nullcontext,
        keep_best: Callable[[int], None] = lambda step: None,
        watch: Callable[[Iterable[Mapping[str, Any]]], Observer] = lambda rows: Unwatched(),
    ) -> None:
        self._model, self._stream, self._objective, self._sampler = model, stream, objective, sampler
        self._reward, self._pool, self._held_out, self._settings = reward, pool, held_out, settings
        self._progress, self._reference, self._values, self._precision = progress, reference, values, precision
        self._keep_best, self._watch = keep_best, watch
        self._spec = stream.spec
        self._share = stream.share
        self._rollouts = settings.folder / "checkpoints" / "rollouts"
        self.findings: list[Finding] = []
        self.restore({})

    # What the loop calls

    @property
    def over(self) -> bool:
        """Whether an observer has said that the run is lost."""
        return any(finding.severity == "lost" for finding in self.findings)

    def before(self, step: int, row: int, stop: StopSignal) -> bool:
        """Have the rollout of these rows at hand: the one that is, the one on disk, or a new one."""
        self._objective.collected()
        self._stream.read_positions = 0
        if not self.start_scores and self._held_out:
            scored = self._held_out_scores(stop)
            if scored is None:
                return False
            self.start_scores = scored.totals
            self._best(0, float(np.mean(scored.totals)))
        number = self._stream.number_of(row)
        at_hand = self._stream.at_hand
        if at_hand is None or (at_hand.number, at_hand.step) != (number, self._made_at.get(number, step)):
            found = self._experience(step, number, stop)
            if found is None:
                return False
            self._stream.take(found)
        self._began_s = time.monotonic()
        return True

    def judge(self, guard: GuardState, loss: float) -> str | None:
        """A policy's loss says nothing by its size."""
        return judge_finite(loss)

    def figures(self, step: int) -> Mapping[str, float]:
        at_hand, annotated = self._stream.at_hand, self._stream.annotated
        assert at_hand is not None
        assert annotated is not None
        update_s = time.monotonic() - self._began_s
        collected = self._objective.collected()
        gap, kl = collected.pop("gap_now", 0.0), collected.pop("kl_now", None)
        first = self._spec.updates == 1
        figures: dict[str, float] = {
            **_figures(at_hand, grouped=self._spec.wants_groups),
            **annotated.figures,
            **collected,
            "rollout_gap": gap if first else at_hand.measured["rollout_gap"],
            "rollout_s": at_hand.measured["seconds"] if at_hand.step == step - 1 else 0.0,
            "update_s": update_s,
            "batch_tokens": self._stream.read_positions,
        }
        if kl is not None and at_hand.policy_N is None:
            figures["kl"] = kl
        if isinstance(self._spec, PpoSpec):
            figures["kl_coefficient"] = at_hand.kl_coefficient
        if self._held_out and step % self._settings.eval_every == 0:
            figures |= self._evaluated(step)
        return figures

    def observe(self, row: Mapping[str, Any]) -> None:
        for finding in self._observer.observe(row, row["step"]):
            self.findings.append(finding)
            self._progress.note(f"{finding.severity} at step {row['step']:,}: {finding.says} {finding.try_}")

    def state(self) -> Mapping[str, Any]:
        prune_experience(self._rollouts, self._least_step())
        return {
            "made_at": [list(pair) for pair in self._made_at.items()],
            "kl_coefficient": self._kl_coefficient,
            "start_scores": self.start_scores,
            "best_step": self.best_step,
            "best_score": self.best_score,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._stream.take(None)
        self._made_at: dict[int, int] = dict(state.get("made_at", ()))
        self._kl_coefficient: float = state.get("kl_coefficient", self._spec.beta)
        self.start_scores: list[float] = state.get("start_scores", [])
        self.best_step: int = state.get("best_step", 0)
        self.best_score: float = state.get("best_score", -math.inf)
        self._began_s = time.monotonic()
        self._observer = self._watch(self._rows() if state else ())
        self.findings = list(getattr(self._observer, "findings", []))

    # Rollouts

    def _experience(self, step: int, number: int, stop: StopSignal) -> Experience | None:
        made_at = self._made_at.get(number)
        key = self._settings.key
        found = read_experience(self._rollouts, step if made_at is None else made_at, number, key)
        if found is None:
            if made_at is not None and made_at != step:
                raise CheckpointError(
                    f"the checkpoint at step {step} goes on with the rollout of step {made_at}, which is missing or damaged in "
                    f"{self._rollouts}; remove the newest folder in {self._settings.folder / 'checkpoints'}, so that the run goes "
                    "on from an earlier one"
                )
            found = self._made(step, number, stop)
            if found is None:
                return None
            write_experience(self._rollouts, found, key)
        if made_at is None:
            self._kl_coefficient = self._next_coefficient(found)
        self._made_at = {number: found.step}
        return found

    @property
    def _reads_itself(self) -> bool:
        """Whether the trainer's own word on the answers is needed before the first update: with several updates, and where it is
        compared with another model's, for the engine never looks at ids that stand for nothing."""
        spec = self._spec
        return spec.updates > 1 or spec.wants_values or (spec.kl_in_reward and self._reference is not None)

    def _next_coefficient(self, made: Experience) -> float:
        if not isinstance(self._spec, PpoSpec) or made.reference_N is None:
            return self._kl_coefficient
        answers = len(made.scores_A)
        return steered(made.kl_coefficient, _divergence(made), self._spec, answers)

    def _made(self, step: int, number: int, stop: StopSignal) -> Experience | None:
        """Answers of the weights as they are, judged and read."""
        began_s = time.monotonic()
        asked = self._answered(number, stop)
        if asked is None:
            return None
        prompts, answers, scored = asked
        items = tuple(item_of(self._pool[prompt].ids, own) for prompt, own in zip(prompts, answers, strict=True))
        flat = [one for own in answers for one in own]
        engine_N = np.array([value for one in flat for value in one.logprobs], np.float64)
        made = Experience(
            step=step,
            number=number,
            prompts=prompts,
            items=items,
            texts=tuple(one.completion.text for one in flat),
            reasons=tuple(one.completion.finish_reason for one in flat),
            scores_A=np.array(scored.totals, np.float64),
            parts={name: tuple(values) for name, values in scored.parts.items()},
            kl_coefficient=self._kl_coefficient,
            engine_N=engine_N,
            policy_N=self._policy(items) if self._reads_itself else None,
            reference_N=None if self._reference is None else self._reference(items),
            value_N=None if self._values is None else self._values_of(items),
        )
        gap = 0.0 if made.policy_N is None else float(np.abs(made.policy_N - engine_N).mean())
        return replace(made, measured={"seconds": time.monotonic() - began_s, "rollout_gap": gap})

    def _answered(self, number: int, stop: StopSignal) -> tuple[tuple[int, ...], list[list[Sampled]], Scored] | None:
        """The prompts of a rollout with their judged answers. Where answers that all scored alike are not wanted, such prompts are
        replaced by others, as often as is allowed, and stay where none is left."""
        wanted = self._settings.prompts
        rounds = self._spec.most_rounds if isinstance(self._spec, ChoosingSpec) and self._spec.dynamic_sampling else 1
        order = enumerate(self._order(number))
        kept: list[tuple[int, list[Sampled], _Scores]] = []
        alike: list[tuple[int, list[Sampled], _Scores]] = []
        for _ in range(rounds):
            places = list(islice(order, wanted - len(kept)))
            if not places:
                break
            answered = self._ask(places, number, stop)
            if answered is None:
                return None
            for one in answered:
                varied = len(set(one[2].totals)) > 1 or rounds == 1
                (kept if varied else alike).append(one)
        chosen = (kept + alike)[:wanted]
        parts = {name: [v for _, _, one in chosen for v in one.parts[name]] for name in chosen[0][2].parts}
        totals = [value for _, _, one in chosen for value in one.totals]
        return tuple(prompt for prompt, _, _ in chosen), [own for _, own, _ in chosen], Scored(totals, parts)

    def _order(self, number: int) -> Iterator[int]:
        """The prompts that a rollout asks, and after them others that it may ask instead; every pass over all has an order of its
        own."""
        size, wanted = len(self._pool), self._settings.prompts
        first = number * wanted
        own = [
            permuted(place % size, size, epoch_key(self._settings.seed, place // size))
            for place in range(first, first + wanted)
        ]
        yield from own
        taken = set(own)
        key = epoch_key(seed_of(self._settings.seed, "instead", number), 0)
        for place in range(size):
            if (other := permuted(place, size, key)) not in taken:
                yield other

    def _ask(
        self, places: Sequence[tuple[int, int]], number: int, stop: StopSignal
    ) -> "list[tuple[int, list[Sampled], _Scores]] | None":
        """Answers to prompts, each with its place in the rollout, from which the seed of its answers follows."""
        count = self._settings.completions
        prompts = [prompt for _, prompt in places]
        seeds = [seed_of(self._settings.seed, number, place) for place, _ in places]
        ids = [self._pool[prompt].ids for prompt in prompts]
        answers = self._sampler(ids, seeds, count=count, sampling=self._settings.sampling, stop=stop)
        if answers is None:
            return None
        cases = [_case(self._pool[prompt], one) for prompt, own in zip(prompts, answers, strict=True) for one in own]
        scored = self._scored(cases)
        return [
            (prompt, own, _Scores.of(scored, slice(at * count, (at + 1) * count)))
            for at, (prompt, own) in enumerate(zip(prompts, answers, strict=True))
        ]

    def _scored(self, cases: Sequence[Case]) -> Scored:
        scored = self._reward(cases)
        if len(scored.totals) != len(cases) or not np.isfinite(scored.totals).all():
            wrong = next((one for one in scored.totals if not math.isfinite(one)), None)
            said = f"gave {len(scored.totals)} scores for {len(cases)} answers" if wrong is None else f"gave {wrong}"
            raise DataError(f"the reward {said}; it must give one finite number for each answer: mend it and run again")
        return scored

    # What models say of the answers

    def _policy(self, items: Sequence[Item]) -> Floats:
        return read_tokens(
            self._model,
            items,
            lambda batch: logprobs_of_tokens(self._model, batch),
            share=self._share,
            precision=self._precision,
        )

    def _values_of(self, items: Sequence[Item]) -> Floats:
        assert self._values is not None
        return read_tokens(self._values, items, self._values.values, share=self._share, precision=self._precision)

    # Prompts that are kept out

    def _held_out_scores(self, stop: StopSignal | None = None) -> Scored | None:
        answers = self._sampler(
            [one.ids for one in self._held_out], [0] * len(self._held_out), sampling=GREEDY, stop=stop
        )
        if answers is None:
            return None
        return self._scored([_case(asked, own[0]) for asked, own in zip(self._held_out, answers, strict=True)])

    def held_out_totals(self) -> list[float]:
        """The scores of the model as it is, of each prompt that is kept out."""
        if not self._held_out:
            return []
        scored = self._held_out_scores()
        assert scored is not None
        return scored.totals

    def _evaluated(self, step: int) -> dict[str, float]:
        scored = self._held_out_scores()
        assert scored is not None
        mean = float(np.mean(scored.totals))
        self._best(step, mean)
        parts = {f"held_out_reward.{name}": _mean(values) for name, values in scored.parts.items()}
        return {"held_out_score": mean, **parts}

    def _best(self, step: int, score: float) -> None:
        if score > self.best_score:
            self.best_step, self.best_score = step, score
            self._keep_best(step)

    # Small things

    def _rows(self) -> Iterator[dict[str, Any]]:
        file = self._settings.folder / METRICS
        for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
            yield json.loads(line)

    def _least_step(self) -> int:
        """Rollouts made before this step are asked for by no checkpoint."""
        steps = [int(path.name[5:]) for path in (self._settings.folder / "checkpoints").glob("step-*")]
        return min(steps, default=0) - self._spec.updates


@dataclass(frozen=True, slots=True)
class _Scores:
    """Of the answers to one prompt."""

    totals: list[float]
    parts: Mapping[str, list[float]]

    @classmethod
    def of(cls, scored: Scored, part: slice) -> "_Scores":
        return cls(list(scored.totals[part]), {name: list(values[part]) for name, values in scored.parts.items()})


def _case(asked: Asked, one: Sampled) -> Case:
    return replace(asked.case, completion=one.completion)


def _figures(made: Experience, *, grouped: bool) -> dict[str, float]:
    """What the answers were like, nats and tokens."""
    tokens_A = made.tokens_A
    groups = made.scores_A.reshape(-1, made.count)
    figures = {
        "reward": float(made.scores_A.mean()),
        "reward_std": float(made.scores_A.std()),
        **{f"reward.{name}": _mean(values) for name, values in made.parts.items()},
        "entropy": float(-made.engine_N.mean()),  # of what was drawn: its own mean surprise
        "answer_tokens": float(tokens_A.mean()),
        "ended": float(np.mean([reason == "stop" for reason in made.reasons])),
    }
    if grouped:
        figures["groups_without_variance"] = float((groups.max(1) == groups.min(1)).mean())
        figures |= _goes_with_length(groups, tokens_A.reshape(groups.shape))
    if made.reference_N is not None and made.policy_N is not None:
        figures["kl"] = _divergence(made)
    return figures


def _goes_with_length(scores_GA: npt.NDArray[np.float64], tokens_GA: npt.NDArray[Any]) -> dict[str, float]:
    """The correlation of score and length among the answers to one prompt; empty where either is always the same."""
    scores, tokens = (values - values.mean(1, keepdims=True) for values in (scores_GA, tokens_GA))
    scale = math.sqrt(float((scores**2).sum() * (tokens**2).sum()))
    return {"reward_length_correlation": float((scores * tokens).sum()) / scale} if scale else {}


def _divergence(made: Experience) -> float:
    """Nats an answer, by the answers themselves (k1)."""
    assert made.reference_N is not None
    assert made.policy_N is not None
    return float((made.policy_N - made.reference_N).sum() / len(made.scores_A))


def _mean(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Of those that are there."""
    there = [value for value in values if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else 0.0
