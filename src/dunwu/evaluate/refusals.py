"""Refusals, right and wrong.

In the small world by exact rules: some questions rest on a false premise, and their twins, which ask in the same words about
something that has the part, are sound. Elsewhere by words that refusals usually have: a rule of thumb, and called so.
"""

import re
from collections.abc import Sequence

from dunwu.corpus.world import Grade, Question
from dunwu.evaluate.exam import final_sentence, mentions

BY_RULE, BY_WORDS = "rules of the small world", "words of refusal"

_REFUSING = re.compile(
    r"""\bI(?:['’]m|\ am)\ (?:so\ |very\ |really\ )?(?:sorry|unable|not\ able)\b
    |\bI\ (?:can\s?not|can['’]t|could\ not|couldn['’]t|won['’]t|will\ not|must\ decline|decline)\b
    |\b(?:as|being)\ an\ AI\b
    |\bI\ (?:do\ not|don['’]t)\ (?:know|have\ (?:enough|any|the)\ (?:information|knowledge))\b
    |无法(?:回答|提供|协助|帮助|满足|确定)|不能(?:回答|提供|协助|帮助|满足)|我不知道|抱歉|对不起|作为(?:一个|一名)?\s*(?:AI|人工智能)""",
    re.IGNORECASE | re.VERBOSE,
)
OPENING = 200  # characters in which a refusal shows


def is_sound(question: Question) -> bool | None:
    """Whether a question of the small world that tests premises is a sound one; None for other questions."""
    if question.kind != "premise":
        return None
    return question.grade.rule == "number"


def objects(question: Question, answer: str) -> bool:
    """Whether the answer says, in the end, that the question is wrong: there is no such part."""
    return objects_to(question.grade, answer)


def objects_to(grade: Grade, answer: str) -> bool:
    """The same by the grade of a question that tests premises."""
    return mentions(final_sentence(answer), _objection(grade))


def _objection(grade: Grade) -> str:
    """What is said where the part is missing: what is expected of an unsound question, and the first rival of a sound one."""
    return grade.rivals[0] if grade.rule == "number" else grade.expected[0]


def sounds_refusing(answer: str) -> bool:
    """Whether the answer begins with words that refusals usually have."""
    return _REFUSING.search(answer[:OPENING]) is not None


def refused_by_words(answers: Sequence[str]) -> list[bool]:
    """Of each answer, whether it sounds like a refusal."""
    return [sounds_refusing(answer) for answer in answers]
