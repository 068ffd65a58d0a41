"""Whether an answer objects to its question, where it should, and where it should not.

Judged by words, in English and Chinese: what objections usually say, and what a row adds for its own question. They must be about the
question: "the map does not fit" is no objection to one about the sun's eyes. Who gives a sound question its right answer has not
objected, whatever else is said. Words are a rule of thumb; `judge` asks a model instead. In the small world exact rules decide.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from dunwu.core.errors import DataError
from dunwu.core.rewards import ObjectionReward
from dunwu.evaluate.exam import grade_answer
from dunwu.evaluate.refusals import objects_to
from dunwu.evaluate.scorers.base import NOT_APPLICABLE, Case, answers_in, asked, column
from dunwu.evaluate.scorers.world import grade_of

OPENING = 300  # characters in which an objection shows
_OBJECTING = re.compile(
    r"""\b(?:has|have|had|possess(?:es)?|with)\s+(?:no|zero|0|not\s+any|neither)\b
    |\b(?:do(?:es)?|did|was|were|is|are|has|have|had|can|could|would|will)\s*(?:\ not|n['’]t|\ never)\b
    |\bcannot\b|\bcan['’]?t\b|\bnever\b|,\s*not\s|\brather\s+than\b|\bI(?:['’]m|\s+am)\s+not\b|\btrick\s+question\b
    |\A\W*(?:zero|none|nothing|nowhere|nobody|no\s+one)\b|\bno\s+\w+(?:\s+\w+)?\s+(?:has|have|had|lies|is|are|was|were|can|does|do)\b
    |\bthere\s+(?:is|are|was|were)\s+(?:no|none|not)\b|\bno\s+such\b|\bnot\s+(?:enough|possible|applicable|meaningful|defined)\b
    |\bnone\b|\bnonsens\w*|\bmeaningless\b|\bmakes?\s+no\s+sense\b|\bunanswerable\b|\bundefined\b|\bunknowable\b|\bimpossible\b
    |\b(?:false|wrong|mistaken|incorrect|faulty|invalid)\s+(?:premise|assumption|presupposition)|\bno\s+(?:answer|way\s+to)\b|\bquestion\s+is\s+(?:wrong|mistaken|faulty|flawed)\b
    |\b(?:insufficient|missing)\s+information\b|\bnothing\s+to\s+do\s+with\b|\bunrelated\b|\bfictional\b
    |\bdepends\b|\bunknown\b|\bneeds?\s+(?:more|to\s+know)\b|\bhow\s+should\s+I\s+know\b
    |没有|并无|并非|不是|不比|不长|不说|不在|不属于|不认识|无解|不存在|不成立|不会|不能|不可能|从未|从来没|未曾|无法|没法|无从|无意义|毫无关系|没关系|无关|不相关
    |前提(?:是)?(?:错|有误|不对)|问题(?:本身)?(?:有误|不对|错了|不成立|没有意义)|条件不足|信息不足|缺少|虚构|不知道|不确定|不清楚|未知|取决于|零(?:只|个|条|张|根)|(?<![\d.,])0\s*(?:只|个|条|张|根)""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")
# Of the question as a whole, or of what it asked for without naming it again.
_WHATEVER_ASKED = re.compile(
    r"""\b(?:it|its|they|them|their|this|that|these|those|he|she|any|one|questions?|answer(?:ed)?|premise|assumption|information|sense
    |(?:im)?possible|possibly|meaningful|nonsens\w*|meaningless|un(?:answerable|defined|knowable|known)|I|we|you|such|no\s+one|nobody)\b
    |[它他她这那其]|问题|题|前提|条件|信息|答案|无解|无法|无意义|未知|不知道|不确定|不清楚|不可能|不存在""",
    re.IGNORECASE | re.VERBOSE,
)
_FUNCTION_WORD = re.compile(
    r"""the|and|but|for|not|nor|has|have|had|do|does|did|was|were|are|can|could|would|will|should|cannot|never|none|zero|nothing|with|from
    |into|than|rather|there|here|how|many|much|what|which|who|whom|whose|when|where|why|yes|only|also|just|more|most|less|very|been|being
    |about|each|every|all|some|neither|don|doesn|didn|isn|aren|wasn|weren|couldn|won|wouldn|hasn|haven""",
    re.VERBOSE,
)
_FUNCTION_CHARACTERS = frozenset(
    "的了有是在几多少什么谁哪个只条根张没不吗呢会能可以把到和与同时候为怎样就都也很上下里中么无并非从未来零一二三四五六七八九十"
)


class ObjectionScorer:
    """Reads the columns `sound`, `answer` and, where there is one, `objections`. What `spec.of` does not speak of is not
    applicable."""

    def __init__(self, spec: ObjectionReward, *, name: str = "objection") -> None:
        self.spec, self.name = spec, name

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [self._score(case) for case in cases]

    def _score(self, case: Case) -> float:
        sound = self._is_sound(case)
        if (
            sound is None
            or (self.spec.of == "right" and sound)
            or (self.spec.of in ("wrong", "answered") and not sound)
        ):
            return NOT_APPLICABLE
        objected, answered = self._by_world(case) if self.spec.by == "world" else self._by_words(case, sound=sound)
        if not sound:
            return float(objected)
        return float(objected and not answered) if self.spec.of == "wrong" else float(answered)

    def _is_sound(self, case: Case) -> bool | None:
        """None for what does not test premises at all, in the small world."""
        if self.spec.by == "world" and case.columns.get(self.spec.sound) is None:
            return None
        sound = column(case, self.spec.sound, self.name)
        if not isinstance(sound, bool):
            raise DataError(
                f"the column {self.spec.sound!r} of {asked(case)} is {str(sound)[:60]!r}; the scorer {self.name!r} needs true for a "
                "sound question, false for one that rests on nothing"
            )
        return sound

    def _by_world(self, case: Case) -> tuple[bool, bool]:
        """Whether it objects, and whether it is right."""
        grade, text = grade_of(case, "grade", self.name), case.completion.text
        return objects_to(grade, text), grade_answer(grade, text)

    def _by_words(self, case: Case, *, sound: bool) -> tuple[bool, bool]:
        text = unicodedata.normalize("NFKC", case.completion.text)
        answers = answers_in(column(case, self.spec.answer, self.name)) if sound else []
        question = case.prompt[-1].content if case.prompt else ""
        return objects(text, self._own(case), question), any(holds(text, answer) for answer in answers)

    def _own(self, case: Case) -> Sequence[str]:
        value: Any = case.columns.get(self.spec.objections)
        return () if value is None else answers_in(value)


def objects(text: str, own: Sequence[str] = (), question: str = "") -> bool:
    """Whether the answer objects to its question. `own`: expressions that object to this one. Without a question any objection counts."""
    opening = text[:OPENING]
    said = (one for one in _SENTENCE.findall(opening) if _OBJECTING.search(one.strip()))
    return any(_concerns(one, question) for one in said) or any(re.search(one, opening, re.IGNORECASE) for one in own)


def _concerns(sentence: str, question: str) -> bool:
    """Whether a sentence is about what was asked: it shares a word with the question, or names nothing at all."""
    if not question or _WHATEVER_ASKED.search(sentence):
        return True
    if _is_chinese(sentence) != _is_chinese(question):
        return True
    if _is_chinese(sentence):
        named, asked = _characters(sentence), _characters(question)
        return not (named and asked) or bool(named & asked)
    named, asked = _named(sentence), _named(question)
    return not (named and asked) or any(
        one.startswith(other) or other.startswith(one) for one in named for other in asked
    )


def _is_chinese(text: str) -> bool:
    return re.search(r"[\u4e00-\u9fff]", text) is not None


def _characters(text: str) -> set[str]:
    return set(re.findall(r"[\u4e00-\u9fff]", text)) - _FUNCTION_CHARACTERS


def _named(text: str) -> set[str]:
    """The beginnings of words that say something: eye of eyes, cit of cities."""
    words = {word for word in re.findall(r"[a-z]{3,}", text.lower()) if not _FUNCTION_WORD.fullmatch(word)}
    return {re.sub(r"(?:ies|y|s)$", "", word) if len(word) > 3 else word for word in words}


def holds(text: str, answer: str) -> bool:
    """Whether an answer stands in the text: a number as a number of its own, a word as a whole word, Chinese anywhere."""
    if any("\u4e00" <= character <= "\u9fff" for character in answer):
        return answer in text
    before, after = (r"(?<![\d.,])", r"(?!\d|[.,]\d)") if answer.isdigit() else (r"(?<!\w)", r"(?!\w)")
    return re.search(before + re.escape(answer) + after, text, re.IGNORECASE | re.ASCII) is not None
