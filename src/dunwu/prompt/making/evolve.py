"""Evol-Instruct, WizardLM, arXiv:2304.12244: instructions made harder, or made anew after their model, one generation after the other.

After 3.2: in each generation each instruction is evolved by one of six operations, all equally likely: five in depth, one in breadth.
What fails the elimination rules leaves its parent in place for the next generation: no gain (the model calls both equal), an answer that
is a short apology, an answer of stop words, words of the prompt in the instruction. Here, unlike there: rows like those of another
family go too, and the given instructions are not rows.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dunwu.core.errors import RecipeError
from dunwu.core.lineage import stable_hash
from dunwu.prompt.making.asking import Reply
from dunwu.prompt.making.how import Asks, How, origin, said_yes
from dunwu.prompt.making.parsing import unquoted
from dunwu.prompt.making.rules import Candidate, Method
from dunwu.prompt.making.seeds import Seeds
from dunwu.prompt.making.sieve import Sieve
from dunwu.prompt.making.similar import words

AT_ONCE = 8
INVENTING = 1.0  # temperature
NUCLEUS = 0.95


@dataclass(frozen=True, slots=True)
class Instruction:
    """One that is to evolve: its words, the seed that it comes from, and the request that made it (or the seed's place)."""

    text: str
    family: str
    made_by: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One evolution: of what, by which operation, into what."""

    parent: Instruction
    operation: str
    reply: Reply
    candidate: Candidate


@dataclass(frozen=True, kw_only=True)
class Evolve:
    """`generations`: how many times each instruction is evolved."""

    seeds: Seeds
    how: How
    generations: int = 4
    seed: int = 0
    method: Method = "evolve"

    def __post_init__(self) -> None:
        if not 1 <= self.generations <= 20:
            raise RecipeError(f"generations={self.generations}; use 1 to 20 (the source: 4)")

    @property
    def inputs(self) -> Mapping[str, Any]:
        return {"seeds": stable_hash([one.whole for one in self.seeds.seeds])}

    def rounds(self, asker: Asks, sieve: Sieve) -> Iterator[list[Candidate]]:
        """All instructions once in each generation, some at a time."""
        living = [Instruction(one.whole, one.source, one.source) for one in self.seeds.seeds]
        sieve.know([(one.text, one.family) for one in living])
        for generation in range(1, self.generations + 1):
            for start in range(0, len(living), AT_ONCE):
                attempts = self._attempts(living[start : start + AT_ONCE], generation, asker, sieve)
                attempts = self._with_gain(attempts, asker, sieve)
                kept = [
                    (attempt, candidate)
                    for attempt, candidate in self._answered(attempts, generation, asker)
                    if sieve.takes(candidate)
                ]
                for attempt, candidate in kept:
                    place = living.index(attempt.parent)
                    living[place] = Instruction(candidate.question, attempt.parent.family, attempt.reply.request)
                yield [candidate for _, candidate in kept]

    def _attempts(self, parents: Sequence[Instruction], generation: int, asker: Asks, sieve: Sieve) -> list[Attempt]:
        """Evolved instructions that pass the rules by themselves."""
        operations = [self._operation(parent, generation) for parent in parents]
        replies = asker.ask(
            [
                self.how.request(
                    f"evolve-{operation}",
                    self.how.words.evolve[operation],
                    temperature=INVENTING,
                    top_p=NUCLEUS,
                    instruction=parent.text,
                )
                for parent, operation in zip(parents, operations, strict=True)
            ]
        )
        found: list[Attempt] = []
        for parent, operation, reply in zip(parents, operations, replies, strict=True):
            if reply is None:
                continue
            candidate = Candidate(
                question=unquoted(reply.text),
                language=self.how.language,
                parent=parent.text,
                family=parent.family,
                provenance={"request": reply.request},
            )
            if not reply.finished:
                sieve.drop("cut_off", candidate)
            elif sieve.takes_question(candidate):
                found.append(Attempt(parent, operation, reply, candidate))
        return found

    def _operation(self, parent: Instruction, generation: int) -> str:
        return random.Random(f"evolve {self.seed} {generation} {parent.family}").choice(list(self.how.words.evolve))

    def _with_gain(self, attempts: Sequence[Attempt], asker: Asks, sieve: Sieve) -> list[Attempt]:
        """Those that ask for more than their parents did, by the model's word; where it gives none, an attempt stays."""
        changed: list[Attempt] = []
        for attempt in attempts:
            if words(attempt.candidate.question) == words(attempt.parent.text):
                sieve.drop("no_information_gain", attempt.candidate)
            else:
                changed.append(attempt)
        if not changed:
            return []
        looks = asker.ask(
            [
                self.how.verdict("equal", self.how.words.equal, old=one.parent.text, new=one.candidate.question)
                for one in changed
            ]
        )
        found: list[Attempt] = []
        for attempt, reply in zip(changed, looks, strict=True):
            if said_yes(reply):
                sieve.drop("no_information_gain", attempt.candidate)
            elif reply is not None:
                found.append(attempt)
        return found

    def _answered(
        self, attempts: Sequence[Attempt], generation: int, asker: Asks
    ) -> Iterator[tuple[Attempt, Candidate]]:
        if not attempts:
            return
        replies = asker.ask([self.how.request("answer", "$task", task=one.candidate.question) for one in attempts])
        for attempt, reply in zip(attempts, replies, strict=True):
            if reply is None:
                continue
            yield (
                attempt,
                replace(
                    attempt.candidate,
                    answer=reply.text,
                    finished=reply.finished,
                    provenance=origin(
                        reply,
                        method=self.method,
                        parents=[attempt.parent.made_by],
                        seed_task=attempt.parent.family,
                        generation=generation,
                        operation=attempt.operation,
                        instruction=attempt.reply.request,
                    ),
                ),
            )
