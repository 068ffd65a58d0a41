"""Several answers to each prompt, judged: the best of them, and how good the best of 1, 2, 4 … is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dunwu.core.progress import Progress
from dunwu.core.records import Completion, Message
from dunwu.corpus.prompts import Prompt
from dunwu.evaluate.sampling import best_of, pass_at
from dunwu.evaluate.scorers.base import Case, WeightedSum
from dunwu.evaluate.stats import Estimate

AT_ONCE = 64  # answers


class Answering(Protocol):
    """What can be asked: every `Chat` can."""

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
    ) -> list[Completion]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How answers are drawn: `n` to each prompt, a pure function of model, prompts and seed."""

    n: int
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A prompt with its answers, their totals, and each part of these."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    totals: tuple[float, ...]
    parts: dict[str, tuple[float, ...]]

    @property
    def best(self) -> int:
        """The answer with the highest total, the first of equals."""
        return max(range(len(self.totals)), key=self.totals.__getitem__)

    def ranked(self) -> list[int]:
        """All answers, the best first, equals in the order in which they were drawn."""
        return sorted(range(len(self.totals)), key=lambda place: -self.totals[place])


def draw(
    chat: Answering, prompts: Sequence[Prompt], reward: WeightedSum, how: Drawing, progress: Progress
) -> Iterator[Drawn]:
    """Ask and judge, a batch of prompts at a time; what comes out is in their order."""
    each = max(1, AT_ONCE // how.n)
    for first in range(0, len(prompts), each):
        batch = prompts[first : first + each]
        answers = chat.reply_batch(
            [prompt.messages for prompt in batch for _ in range(how.n)],
            max_tokens=how.max_tokens,
            temperature=how.temperature,
            top_p=how.top_p,
            seed=_seed(how.seed, first),
        )
        yield from judged(batch, answers, reward)
        progress.update(first + len(batch), len(prompts))


def judged(prompts: Sequence[Prompt], answers: Sequence[Completion], reward: WeightedSum) -> list[Drawn]:
    """Prompts with their answers, equally many to each."""
    n = len(answers) // len(prompts)
    cases = [
        Case(prompt=prompt.messages, completion=answer, columns=prompt.columns)
        for prompt, answer in zip((p for p in prompts for _ in range(n)), answers, strict=True)
    ]
    scored = reward(cases)
    found: list[Drawn] = []
    for place, prompt in enumerate(prompts):
        own = slice(place * n, (place + 1) * n)
        parts = {name: tuple(values[own]) for name, values in scored.parts.items()}
        found.append(Drawn(prompt, tuple(answers[own]), tuple(scored.totals[own]), parts))
    return found


def curve(drawn: Sequence[Drawn]) -> dict[int, Estimate]:
    """The total of the best of 1, 2, 4 … answers by that total: what it gives to ask more often."""
    n = min(len(one.totals) for one in drawn)
    return {k: best_of([one.totals for one in drawn], k) for k in doublings(n)}


def passes(drawn: Sequence[Drawn], part: str) -> dict[int, Estimate] | None:
    """How often one of 1, 2, 4 … answers is right, by a part that says just 0 or 1; None where it says other things."""
    values = [one.parts[part] for one in drawn]
    if not {value for group in values for value in group} <= {0.0, 1.0}:
        return None
    counts = [(len(group), int(sum(group))) for group in values]
    return {k: pass_at(counts, k) for k in doublings(min(n for n, _ in counts))}


def doublings(n: int) -> list[int]:
    """1, 2, 4 … below `n`, and `n`."""
    powers = [2**power for power in range(n.bit_length()) if 2**power < n]
    return [*powers, n]


def _seed(seed: int, first: int) -> int:
    """Seeds of batches lie apart from those that a batch gives to its places."""
    return (seed << 20) + first
