"""Preference pairs of the small world: a right and a wrong answer to a question, in which length alone tells nothing."""

from collections.abc import Iterator
from random import Random

from dunwu.core.recipe import Language, PreferenceWorldSource
from dunwu.core.records import Message, Preference
from dunwu.corpus.world.exam import KINDS, SHARES, QuestionPool
from dunwu.corpus.world.mistakes import ALIKE, LONGER, OF_KIND, SHORTER, Asked, Mistake, ask
from dunwu.corpus.world.questions import GRAMMARS, Kind
from dunwu.corpus.world.truth import World, build_world

SMALL_TALK_SHARE = 0.04
OF_KIND_SHARE, ALIKE_SHARE = 0.6, 0.1  # of mistakes; the rest is too short or too long, whichever evens out the lengths
_TRIES = 20


class WorldPairs:
    """An endless supply of pairs to questions of one side of the split: those that training asks, or those of the exam.

    Both sides ask the same kinds of question; neither combines facts that the other combines.
    """

    def __init__(self, world: World, *, for_exam: bool = False) -> None:
        self.world = world
        self._pools = {kind.name: QuestionPool(world, kind, for_exam=for_exam) for kind in KINDS}
        self._talk = {language: list(grammar.small_talk) for language, grammar in GRAMMARS.items()}
        self._surplus: dict[str, int] = dict.fromkeys(GRAMMARS, 0)  # wrong answers longer, less those shorter

    def draw(self, language: Language, rng: Random) -> tuple[str, str, str, str]:
        """Question, right answer, wrong answer, and what kind of question it is."""
        if rng.random() < SMALL_TALK_SHARE:
            return self._small_talk(language, rng)
        for _ in range(_TRIES):
            asked = self._asked(language, rng)
            if asked is None:
                continue
            wrong = self._wrong(asked, rng)
            if wrong is not None:
                return asked.question.messages[0].content, asked.right, wrong, asked.kind.name
        raise AssertionError("a world has questions of some kind in every language")

    def _asked(self, language: Language, rng: Random) -> Asked | None:
        kind, combination = self._drawn(language, rng)
        other_kind, other = self._drawn(language, rng)
        if combination is None or other is None:
            return None
        another = other_kind.ask(self.world, other, language, Random(rng.getrandbits(32))).answer
        return ask(self.world, kind, combination, language, seed=rng.getrandbits(32), another=another)

    def _drawn(self, language: Language, rng: Random) -> tuple[Kind, tuple[str, ...] | None]:
        (name,) = rng.choices(list(SHARES), list(SHARES.values()))
        pool = self._pools[name]
        return pool.kind, pool.combination(language, rng)

    def _wrong(self, asked: Asked, rng: Random) -> str | None:
        """A wrong answer; the mistakes that make it too long or too short are those that even out the lengths so far."""
        number = rng.random()
        uneven = LONGER if self._surplus[asked.language] < 0 else SHORTER
        mistakes: tuple[Mistake, ...] = (
            OF_KIND[asked.kind.name]
            if number < OF_KIND_SHARE
            else ALIKE
            if number < OF_KIND_SHARE + ALIKE_SHARE
            else uneven
        )
        for mistake in (rng.choice(mistakes), *uneven):
            said = mistake(asked, rng)
            if said is not None and said != asked.right:
                self._count(asked.language, asked.right, said)
                return said
        return None

    def _count(self, language: Language, right: str, wrong: str) -> None:
        self._surplus[language] += (len(wrong) > len(right)) - (len(wrong) < len(right))

    def _small_talk(self, language: Language, rng: Random) -> tuple[str, str, str, str]:
        said, right = rng.choice(self._talk[language])
        asked = self._asked(language, rng)
        fact = "" if asked is None else asked.right
        others = [reply for _, reply in self._talk[language] if reply != right]
        separator = GRAMMARS[language].separator
        shorter = ["", *(reply for reply in others if len(reply) < len(right))]
        longer = [
            f"{right}{separator}{fact}",
            f"{right}{separator}{right}",
            *(r for r in others if len(r) > len(right)),
        ]
        wrong = rng.choice(longer if self._surplus[language] < 0 else shorter)
        self._count(language, right, wrong)
        return said, right, wrong, "small talk"


def world_preferences(source: PreferenceWorldSource, *, for_exam: bool = False) -> Iterator[Preference]:
    """`pairs` pairs, a pure function of the source, the languages in turn; `for_exam`: to questions that only the exam asks."""
    pairs = WorldPairs(build_world(source.seed, source.size), for_exam=for_exam)
    side = "exam" if for_exam else "training"
    rng = Random(f"preferences {source.seed} {side}")
    for number in range(source.pairs):
        question, right, wrong, kind = pairs.draw(source.languages[number % len(source.languages)], rng)
        yield Preference(
            prompt=(Message(role="user", content=question),),
            chosen=(Message(role="assistant", content=right),),
            rejected=(Message(role="assistant", content=wrong),),
            source=f"world/{source.seed}/preferences/{side}#{number}/{kind}",
        )


def kind_of(preference: Preference) -> str:
    """Of a pair of the small world: the kind of its question."""
    return preference.source.rpartition("/")[2]
