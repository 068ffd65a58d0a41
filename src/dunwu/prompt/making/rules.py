"""Rules by which questions and answers that a model made are dropped, each with a name, a source and a threshold.

A row goes by the first rule that it breaks. Sources: Self-Instruct, arXiv:2212.10560, 2.2 and its published code; Unnatural
Instructions, arXiv:2212.09689, 2.1; WizardLM, arXiv:2304.12244, 3.2 ("elimination evolving"). Each docstring says where we differ:
all of these were written for English, and count words; here three characters of a script without spaces count as two words.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dunwu.corpus.json_rows import is_unicode
from dunwu.corpus.language import UNKNOWN, identify
from dunwu.corpus.measure import BROKEN, HAN, HANGUL, KANA, LATIN, LETTER, count_kinds
from dunwu.prompt.making.parsing import is_page
from dunwu.prompt.making.similar import is_alone, rouge_l, words

Method = Literal["qa", "self-instruct", "unnatural", "evolve"]
Part = Literal["question", "answer"]
LEAST_HELD = 0.4  # of an answer's content words, in its passage
ALL = "qa self-instruct unnatural evolve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A question and its answer that may become a row.

    `finished`: the answer was not cut at the limit of tokens. `passage`: what a question of `qa` was made from; `parent`: what an
    instruction was made harder from; `family`: those of one family may be alike. `shown`: how the user's turn reads in the row, where
    it is more than the question.
    """

    question: str
    answer: str = ""
    language: str = "en"
    finished: bool = True
    passage: str = ""
    parent: str = ""
    family: str | None = None
    shown: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Rule:
    """A named reason to drop a row. `part`: what it looks at."""

    name: str
    source: str
    threshold: str
    part: Part
    methods: frozenset[str]
    breaks: Callable[[Candidate, Method], bool]


RULES: list[Rule] = []
OTHER_REASONS: Mapping[str, str] = {
    "near_duplicate_question": "Self-Instruct: ROUGE-L with a kept question of 0.7 or more (qa: 0.9; --similar)",
    "near_duplicate_row": "own, after arXiv:2107.06499: estimated Jaccard similarity of runs of 5 words of 0.8 or more",
    "decontaminated": "after GPT-3, arXiv:2005.14165: 13 words (16 Chinese characters) in common with an evaluation file",
    "no_information_gain": "WizardLM: the model calls old and new instruction equal",
    "not_supported": "own: asked again, the model does not say that the passage supports the answer",
}
"""Reasons that take more than the row itself: the rows before it, files, or the model."""


def _rule(
    part: Part, source: str, threshold: str, *, methods: str = ALL
) -> Callable[[Callable[[Candidate, Method], bool]], Callable[[Candidate, Method], bool]]:
    def register(breaks: Callable[[Candidate, Method], bool]) -> Callable[[Candidate, Method], bool]:
        RULES.append(Rule(breaks.__name__, source, threshold, part, frozenset(methods.split()), breaks))
        return breaks

    return register


def broken_rule(candidate: Candidate, method: Method, part: Part) -> str | None:
    """The name of the first rule that this part of a candidate breaks, or None."""
    for rule in RULES:
        if rule.part == part and method in rule.methods and rule.breaks(candidate, method):
            return rule.name
    return None


def length(text: str) -> float:
    """In words; three characters of Chinese or Japanese count as two."""
    kinds = count_kinds(text)
    alone = int(kinds[[HAN, KANA]].sum())
    return len(words(text)) - alone / 3


# Questions

_BEYOND_TEXT = re.compile(
    r"\b(?:images?|graphs?|pictures?|photos?|photographs?|videos?|audio|files?|maps?|draw|plot|go to|click|upload|attached)\b"
    r"|图片|图像|照片|图表|视频|音频|录音|附件|上传|点击|画一|绘制|地图|文件",
    re.I,
)
_PASSAGE_WORDS = re.compile(
    r"\b(?:the|this|that|given|provided|above|following) (?:passage|text|document|excerpt|paragraph|section|article|context)\b"
    r"|\b(?:mentioned|described|stated|listed|shown) (?:above|below|here)\b"
    r"|(?:本|该|此|上述|以上|上面的?|下面的?|这[段篇]|文|原)(?:文中?|段落?|文章|章节|材料|资料|短文|节选)|文中|上文|下文",
    re.I,
)
_COPIED = re.compile(
    r"#+ ?(?:the )?(?:given|rewritten|created|new|original)[ _](?:prompt|instruction|task)|#+ ?(?:给定|改写后?|原始|新)的?(?:指令|提示|任务)"
    r"|<\|[^|<>]{1,40}\|>|</?s>|\[/?INST\]",
    re.I,
)
_SPOKEN_OF = re.compile(
    r"\b(?:given|rewritten|created) (?:prompt|instruction)s?\b|(?:给定的?|改写后的?)(?:指令|提示)", re.I
)


@_rule("question", "own", "no letter or digit")
def empty_question(candidate: Candidate, method: Method) -> bool:
    """Nothing is asked."""
    return not words(candidate.question)


@_rule("question", "own", "a web page in place of words")
def page_of_html(candidate: Candidate, method: Method) -> bool:
    """What a proxy answered, not a model; unless one was asked for."""
    wanted = re.search(r"html|web ?page|website|网页|网站", candidate.question, re.I)
    return is_page(candidate.question) or (is_page(candidate.answer) and not wanted)


@_rule("question", "own, after the corpus' rule", "U+FFFD, private-use characters, or halves of a surrogate pair")
def garbled(candidate: Candidate, method: Method) -> bool:
    """Bytes that were no text."""
    text = candidate.question + candidate.answer
    return bool(count_kinds(text)[BROKEN]) or not is_unicode(text)


@_rule("question", "Self-Instruct", "3 words or fewer (qa: 1)")
def short_question(candidate: Candidate, method: Method) -> bool:
    """Too little to know what is wanted; a question of a passage ("Who won?") may be shorter than a task."""
    return length(candidate.question) <= (1 if method == "qa" else 3)


@_rule("question", "Self-Instruct", "more than 150 words (evolve: 600)")
def long_question(candidate: Candidate, method: Method) -> bool:
    """Mostly an answer or a list that ran on. Instructions that were made harder on purpose may be long."""
    return length(candidate.question) > (600 if method == "evolve" else 150)


@_rule(
    "question",
    "Self-Instruct",
    "image, graph, picture, file, map, draw, plot, go to, …",
    methods="self-instruct unnatural",
)
def beyond_text(candidate: Candidate, method: Method) -> bool:
    """Words of what cannot be done by text. Own additions: photo, video, audio, click, upload, and the Chinese ones. Not asked of
    questions on documents, which may be about files and maps."""
    return bool(_BEYOND_TEXT.search(candidate.question))


@_rule("question", "Self-Instruct", "begins with 'write a program'", methods="self-instruct")
def write_a_program(candidate: Candidate, method: Method) -> bool:
    """Too vague to be answered, by the finding of the source."""
    return bool(re.match(r"\W*(?:write a program|(?:请)?(?:编写|写)一个程序)", candidate.question, re.I))


@_rule("question", "Self-Instruct", "begins with punctuation", methods="self-instruct unnatural")
def odd_beginning(candidate: Candidate, method: Method) -> bool:
    """The tail of something else. Quotation marks, brackets and bullets of titles are let pass here."""
    return bool(re.match(r"[.,;:!?)\]}%&…。，；：！？、）】」』]", candidate.question.lstrip()))


@_rule("question", "WizardLM", "words of the prompt, such as 'rewritten prompt', or control tokens")
def copies_prompt(candidate: Candidate, method: Method) -> bool:
    """The model repeats what it was told. Own addition: chat templates' control tokens. That something is called the given prompt counts
    where an instruction evolves, and its parent did not say so."""
    if _COPIED.search(candidate.question) or re.search(r"<\|[^|<>]{1,40}\|>|\[/?INST\]", candidate.answer):
        return True
    spoken_of = method == "evolve" and _SPOKEN_OF.search(candidate.question)
    return bool(spoken_of) and not _SPOKEN_OF.search(candidate.parent)


@_rule("question", "own", "'the passage', 'the text', 'above'", methods="qa")
def names_passage(candidate: Candidate, method: Method) -> bool:
    """Whoever reads the row does not see the passage; where the row shows it, this is no fault."""
    return not candidate.shown and bool(_PASSAGE_WORDS.search(f"{candidate.question}\n{candidate.answer}"))


@_rule("question", "own, after Self-Instruct's 'begins with a non-English character'", "not in the language wanted")
def other_language(candidate: Candidate, method: Method) -> bool:
    """By script; where scripts are the same, by the corpus' identifier, for texts of 60 letters or more. What is to be translated
    may be in any."""
    kinds = count_kinds(candidate.question)
    if candidate.language == "zh" and not kinds[HAN] and kinds[LATIN] >= 12:
        return True
    return not _TRANSLATES.search(candidate.question) and _in_other_language(candidate.question, candidate.language)


def _in_other_language(text: str, wanted: str) -> bool:
    kinds = count_kinds(text)
    han, kana, hangul = int(kinds[HAN]), int(kinds[KANA]), int(kinds[HANGUL])
    latin, letters = int(kinds[LATIN]), int(kinds[[HAN, KANA, HANGUL, LATIN, LETTER]].sum())
    if not letters:
        return False
    if wanted == "zh":
        in_latin = han * 4 < latin and (han == 0 or latin >= _TELLING_LETTERS) and _says_english(text)
        return in_latin or kana > 0.1 * letters or hangul > 0.1 * letters
    if wanted == "en":
        if han + kana + hangul > 0.3 * letters or int(kinds[LETTER]) > 0.5 * letters:
            return True
        return not _says_english(text) and _is_another(text, latin, wanted)
    return _is_another(text, letters, wanted)


def _says_english(text: str) -> bool:
    """Whether three words in it are among the commonest: code, sums and lists of names have few of them."""
    return sum(word in _COMMONEST for word in words(text)) >= 3


def _is_another(text: str, letters: int, wanted: str) -> bool:
    if letters < _TELLING_LETTERS or wanted == UNKNOWN or "```" in text:  # of little text, and of code, one cannot tell
        return False
    return identify(text) not in (wanted, UNKNOWN)


# Answers

_REFUSAL = re.compile(
    r"\A\W*(?:i(?:'m| am) (?:sorry|unable|afraid)|sorry\b|i (?:cannot|can't|can not|don't have|do not have)\b|as an ai\b|unfortunately, i\b"
    r"|(?:the passage|the text|it) does not (?:say|mention|state|provide)|(?:对不起|很?抱歉|非常抱歉)|作为(?:一个)?(?:人工智能|AI|语言模型)"
    r"|我(?:无法|不能|没有办法)|无法(?:回答|提供|确定)|文中没有|(?:原文|资料)(?:没有|未)提)",
    re.I,
)
_TELLING_LETTERS = 60
_COMMONEST = frozenset(("the", "and", "of", "is", "are", "to", "that", "it", "was", "with", "this", "in", "you"))
_TRANSLATES = re.compile(
    r"translat|\b(?:in|into|to|from) (?:english|chinese|german|french|spanish|japanese|korean|russian|latin)\b"
    r"|翻译|译成|译为|英文|中文|英语|汉语|日语|法语|德语|俄语|韩语",
    re.I,
)
_STOP_WORDS = frozenset(
    {
        *(
            "a",
            "an",
            "the",
            "and",
            "or",
            "but",
            "if",
            "of",
            "to",
            "in",
            "on",
            "at",
            "by",
            "for",
            "with",
            "from",
            "as",
            "is",
            "are",
            "was",
        ),
        *(
            "were",
            "be",
            "been",
            "it",
            "its",
            "this",
            "that",
            "these",
            "those",
            "i",
            "you",
            "he",
            "she",
            "we",
            "they",
            "do",
            "does",
            "did",
        ),
        *("not", "no", "so", "than", "then", "there", "here", "which", "who", "what", "when", "where", "how"),
        *"的了是在和与或也都就而及着这那我你他她它们吗呢吧啊之其",
    }
)


@_rule("answer", "Self-Instruct", "nothing, or a placeholder")
def empty_answer(candidate: Candidate, method: Method) -> bool:
    """No answer at all."""
    answer = candidate.answer.strip().strip("<>[]().。…").lower()
    return answer in (
        "",
        "none",
        "n/a",
        "na",
        "null",
        "nooutput",
        "no output",
        "无",
        "无输出",
        "answer",
        "output",
        "your answer",
        "答案",
    )


@_rule("answer", "own", "20 characters or more that are not in the language wanted")
def other_language_answer(candidate: Candidate, method: Method) -> bool:
    """As `other_language`. An answer of a word or a number has no language, a translation's is another."""
    if len(candidate.answer) < 20 or _TRANSLATES.search(candidate.question):
        return False
    return _in_other_language(candidate.answer, candidate.language)


@_rule("answer", "Self-Instruct", "stopped at the limit of tokens")
def cut_off(candidate: Candidate, method: Method) -> bool:
    """Half an answer teaches to stop half-way."""
    return not candidate.finished


@_rule("answer", "WizardLM", "'sorry' and fewer than 80 words, or a refusal's first words")
def refusal(candidate: Candidate, method: Method) -> bool:
    """The model cannot do it. The source looks for "sorry" anywhere in a short answer; own addition: how refusals begin, and that an
    apology may be what was asked for."""
    answer = candidate.answer
    if _REFUSAL.match(answer):
        return True
    asked_for = re.search(r"apolog|sorry|condolence|道歉|抱歉|对不起|致歉", candidate.question, re.I)
    says_sorry = method != "qa" and not asked_for and re.search(r"\bsorry\b|对不起|抱歉", answer, re.I)
    return bool(says_sorry) and length(answer) < 80


@_rule("answer", "WizardLM", "punctuation and stop words only", methods="self-instruct unnatural evolve")
def only_stop_words(candidate: Candidate, method: Method) -> bool:
    """Nothing said. A single word may be a label ("A"), and "No" an answer to a passage's question."""
    found = words(candidate.answer)
    return len(found) != 1 and found not in (["是", "的"], ["不", "是"]) and all(word in _STOP_WORDS for word in found)


@_rule("answer", "Self-Instruct", "ROUGE-L of 0.9 or more with the question, and no word that is not in it")
def repeats_question(candidate: Candidate, method: Method) -> bool:
    """The question once more. The source asks for equality with the input. Of more than 40 words most are an input, of which answers may
    repeat nearly all."""
    asked, said = words(candidate.question), words(candidate.answer)
    limit = 0.9 if len(asked) <= 40 else 0.98
    return not set(said) - set(asked) and rouge_l(asked, said) >= limit


@_rule(
    "answer", "own, after Gopher's repeated n-grams, arXiv:2112.11446", "more than half of 4 words in a row come again"
)
def goes_round(candidate: Candidate, method: Method) -> bool:
    """The loop that weak models fall into. Needs 24 words; code and tables repeat themselves less than this."""
    found = words(candidate.answer)
    runs = Counter(zip(found, found[1:], found[2:], found[3:], strict=False))
    return len(found) >= 24 and len(runs) < 0.5 * runs.total()


@_rule(
    "answer", "own", "a number that the passage lacks, or under 40% of the answer's content words in it", methods="qa"
)
def not_in_passage(candidate: Candidate, method: Method) -> bool:
    """Says nothing of whether the words are put together rightly; the model's second look does. See `grounded`."""
    return bool(candidate.passage) and not grounded(candidate.answer, candidate.question, candidate.passage)


def grounded(answer: str, question: str, passage: str) -> bool:
    """Whether the passage has the words of this answer: all its numbers, and 40% of the content words that are not in the question.

    A character written without spaces counts as there where it stands in the passage beside the same neighbour as in the answer. An
    answer of stop words and the question's own words alone ("No.") shows nothing, and passes.
    """
    asked = {unit for unit, _ in _content(question)}
    said = [(unit, pairs) for unit, pairs in _content(answer) if unit not in asked]
    held, runs = {unit for unit, _ in _content(passage)}, "".join(words(passage))
    if any(unit.isdecimal() and unit not in held for unit, _ in said):
        return False
    found = sum(any(pair in runs for pair in pairs) if pairs else unit in held for unit, pairs in said)
    return found >= LEAST_HELD * len(said)


def _content(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Words without stop words and without a plural's s, numbers without separators; characters that stand alone, each with the pairs
    that it makes with its neighbours."""
    found = words(re.sub(r"(?<=\d)[,\uff0c](?=\d{3}\b)", "", text))
    units: list[tuple[str, tuple[str, ...]]] = []
    for place, word in enumerate(found):
        if word in _STOP_WORDS:
            continue
        if is_alone(word):
            sides = (found[max(0, place - 1) : place + 1], found[place : place + 2])
            pairs = ("".join(side) for side in sides if len(side) == 2 and all(map(is_alone, side)))
            units.append((word, tuple(pairs)))
        else:
            units.append((word.rstrip("s") if len(word) > 3 else word, ()))
    return units
