"""Conversations that teach a small model both to answer at once and to show its steps, and the questions on which it is measured.

Of the small world, English. No question that is measured combines facts that a conversation combines (`corpus/world/split.py`).
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dunwu.corpus.world import build_world
from dunwu.corpus.world.exam import QuestionPool, TrainingQuestions
from dunwu.corpus.world.form import VALUE_FORMS, Form
from dunwu.corpus.world.questions import GRAMMARS, Question
from dunwu.corpus.world.reasoning import Fits, Left
from dunwu.corpus.world.truth import World

SEED, SIZE = 0, 1.0
TRIGGER = "Let's think step by step."
STEPS_SHARE = 0.25  # of plain conversations: so that a question alone is mostly answered at once
MOST_TURNS = 6
FORMS = tuple(form for form in VALUE_FORMS if form not in ("brackets", "repeat", "ending"))
REASONED = (Fits(), Left())


def conversations(count: int) -> Iterator[list[dict[str, str]]]:
    """Comparing and counting, answered at once or in steps; values in a form that the turns before show; and all else."""
    world = build_world(SEED, SIZE)
    rng = random.Random("prompting")
    pools = [QuestionPool(world, kind, for_exam=False) for kind in REASONED]
    others = TrainingQuestions(world)
    for _ in range(count):
        what = rng.random()
        if what < 0.35:
            yield _asked_for_steps(rng.choice(pools), rng)
        elif what < 0.7:
            yield _plain(rng.choice(pools), rng)
        elif what < 0.9:
            yield _shown_form(world, rng)
        else:
            yield [{"role": one.role, "content": one.content} for one in others.conversation("en", rng)]


def _asked_for_steps(pool: QuestionPool, rng: random.Random) -> list[dict[str, str]]:
    drawn = [_draw(pool, rng) for _ in range(rng.choice((1, 1, 2)))]
    return [turn for one in drawn for turn in _turns(f"{one.messages[0].content}\n{TRIGGER}", one.answer)]


def _plain(pool: QuestionPool, rng: random.Random) -> list[dict[str, str]]:
    steps = rng.random() < STEPS_SHARE
    drawn = [_draw(pool, rng) for _ in range(rng.randint(1, MOST_TURNS))]
    return [
        turn for one in drawn for turn in _turns(one.messages[0].content, one.answer if steps else at_once(one.answer))
    ]


def _shown_form(world: World, rng: random.Random) -> list[dict[str, str]]:
    form = rng.choice(FORMS)
    kind = Form()
    free = [one for one in kind.combinations(world) if one[0] == form and not kind.held_out(world, one)]
    turns = rng.sample(free, rng.randint(1, MOST_TURNS + 2))
    return [turn for one in turns for turn in _turns(*form_case(world, one))]


def form_case(world: World, combination: Sequence[str]) -> tuple[str, str]:
    """The name of a fact, and its value in a form that the question does not name."""
    form, key, attribute = combination
    entity, grammar = world.by_key[key], GRAMMARS["en"]
    value = grammar.word(entity.facts[attribute])  # pyright: ignore[reportArgumentType]
    question = grammar.fill(grammar.item, entity, a=grammar.attributes[attribute]) + "?"  # pyright: ignore[reportArgumentType]
    answers = {"capitals": value.upper(), "one word": value, "json": json.dumps({attribute: value})}
    return question, answers[form]


def at_once(answer: str) -> str:
    """The last sentence of an answer in steps."""
    return re.split(r"(?<=\.)\s+", answer.strip())[-1]


def _draw(pool: QuestionPool, rng: random.Random) -> Question:
    question = pool.draw("en", rng)
    assert question is not None
    return question


def _turns(question: str, answer: str) -> tuple[dict[str, str], dict[str, str]]:
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def write_conversations(path: Path, count: int) -> None:
    """A .jsonl file for `sft.sources`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for messages in conversations(count):
            file.write(json.dumps({"messages": messages}) + "\n")
