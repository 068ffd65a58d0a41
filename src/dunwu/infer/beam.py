"""Beam search: which sequences go on, which are done. Plain Python over ids and log-probabilities; the model stays outside.

A round: the engine reads the last token of each live beam, asks for the 2 · width likeliest next tokens of each
(`sampling.token_logprobs`), and hands them to `Search.advance`. The beams that come back name the place of the beam from which
they go on, so that the block manager can share its blocks (copy-on-write) and free those that nobody goes on from. 2 · width
tokens a beam suffice: at most `width` stop tokens cannot push a live continuation out of the list.

As in transformers: a sequence is worth its summed log-probability divided by its length (the stop token included) to the power
of `length_penalty` (arXiv:1609.08144 eq. 14 has another form of the same thought). Unlike there, a search with `early` false
ends only once no live beam can be worth more than the worst that is kept, at whatever length: log-probabilities only fall.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dunwu.core.errors import RecipeError
from dunwu.infer.sampling import Scored


@dataclass(frozen=True, slots=True)
class Beam:
    """The completion so far and its summed log-probability, nats. `parent`: the place, in the round before, that it grew from."""

    ids: tuple[int, ...]
    logprob: float
    parent: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A completion without its stop token; `stopped` false where it ran out of tokens. `score`: what it is worth."""

    ids: tuple[int, ...]
    logprob: float
    score: float
    stopped: bool


@dataclass(slots=True, kw_only=True)
class Search:
    """One prompt's beams: `width` alive at most, and the `width` best that are done.

    `length_penalty` above 0 favours long completions, below 0 short ones. `early` ends the search as soon as `width` are done.
    Raises RecipeError for values out of range.
    """

    width: int
    max_tokens: int
    stop_ids: frozenset[int]
    length_penalty: float = 1.0
    early: bool = False
    beams: list[Beam] = field(default_factory=lambda: [Beam((), 0.0)])
    finished: list[Finished] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.width < 1 or self.max_tokens < 1:
            raise RecipeError(f"width={self.width} and max_tokens={self.max_tokens} must be at least 1")
        if not math.isfinite(self.length_penalty):
            raise RecipeError(f"length_penalty={self.length_penalty} must be a number; use 1 to divide by the length")

    @property
    def wanted(self) -> int:
        """How many likeliest next tokens `advance` needs for each beam."""
        return 2 * self.width

    @property
    def done(self) -> bool:
        return not self.beams

    def advance(self, likeliest: Sequence[Sequence[Scored]]) -> list[Beam]:
        """One round: for each live beam its likeliest next tokens with their log-probabilities (-inf: not allowed).

        Returns the beams that go on; none when the search is done.
        """
        assert len(likeliest) == len(self.beams)
        grown = [
            (Beam((*beam.ids, token.id), beam.logprob + token.logprob, place), place)
            for place, (beam, tokens) in enumerate(zip(self.beams, likeliest, strict=True))
            for token in tokens
            if token.logprob > -math.inf
        ]
        grown.sort(key=lambda pair: (-pair[0].logprob, pair[1], pair[0].ids[-1]))
        alive: list[Beam] = []
        for rank, (beam, _) in enumerate(grown):
            if beam.ids[-1] in self.stop_ids:
                if rank < self.width:  # a stop token further down is less likely than all that go on
                    self._keep(beam, stopped=True)
            elif len(alive) < self.width:
                alive.append(beam)
        if alive and len(alive[0].ids) == self.max_tokens:
            for beam in alive:
                self._keep(beam, stopped=False)
            alive = []
        self.beams = [] if self._settled(alive) else alive
        return self.beams

    def best(self, count: int = 1) -> list[Finished]:
        """The best that are done, the best first."""
        return self.finished[:count]

    def _keep(self, beam: Beam, *, stopped: bool) -> None:
        score = self._worth(beam.logprob, len(beam.ids))
        self.finished.append(Finished(beam.ids[:-1] if stopped else beam.ids, beam.logprob, score, stopped))
        self.finished.sort(key=lambda one: -one.score)
        del self.finished[self.width :]

    def _settled(self, alive: Sequence[Beam]) -> bool:
        if len(self.finished) < self.width or not alive:
            return False
        if self.early:
            return True
        length = self.max_tokens if self.length_penalty > 0 else len(alive[0].ids)
        return self._worth(alive[0].logprob, length) <= self.finished[-1].score

    def _worth(self, logprob: float, length: int) -> float:
        return logprob / length**self.length_penalty


def order_of_blocks(before: int, beams: Sequence[Beam]) -> Mapping[int, list[int]]:
    """For each of the `before` beams of the last round: the places of those that go on from it. Empty: its blocks are free."""
    return {parent: [place for place, beam in enumerate(beams) if beam.parent == parent] for parent in range(before)}
