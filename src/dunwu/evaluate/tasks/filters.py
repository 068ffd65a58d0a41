"""How an answer is taken out of a text: steps, one after another, as a task's metric names them."""

import re
from collections.abc import Callable, Mapping, Sequence

from dunwu.core.final_answer import final_answer
from dunwu.core.problems import Problem
from dunwu.evaluate.scorers.code import code_in
from dunwu.evaluate.tasks.boxed import boxed
from dunwu.evaluate.tasks.making import LETTERS
from dunwu.evaluate.tasks.metric_specs import Step

_LETTER = (
    r"(?:[B-HJ-Z]|[AI](?!['’]|\s+[a-z](?!nd\b|r\b)))(?![A-Za-z0-9_'’])"  # no article, no pronoun: A or B, but no A cat
)
_SAID = re.compile(
    rf"(?i:answers?|choice|option)\b[^\S\n]*(?i:is|are|:|=|would be|should be)[^\S\n]*:?[^\S\n]*(?i:(?:option|choice)\s+)?"
    rf"[*(\[{{$\\a-z]*?({_LETTER})"
    rf"|(?:答案|选项|选择|应选|故选|选)(?:应该|应)?(?:是|为|项|：|:)*\s*[*(（\[]*({_LETTER})"
)
_FIRST = re.compile(r"\A\W*([A-Z])(?=[\s.,:;)\]、。，：；）*]|\Z)(?!\s+[a-z])")
_ALONE = re.compile(rf"[(（\[]([A-Z])[)）\]]|(?<![A-Za-z0-9_'’])({_LETTER})")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?|-?\.\d+")


def taken(text: str, steps: Sequence[Step], problem: Problem) -> str:
    """What is left of a completion after all steps."""
    for step in steps:
        found = _STEPS[step.kind](text, step, problem)
        text = found if found is not None else text if step.otherwise is None else step.otherwise
    return text


def letter_in(text: str, problem: Problem) -> str | None:
    """The letter of the choice that an answer names: boxed, called the answer, at its beginning, the text of just one choice, or
    the only letter that stands alone; or the choice that it is, to the letter. None where it names none, or one that is no choice's."""
    letters = LETTERS[: len(problem.choices)]
    plain = [choice.strip().casefold() for choice in problem.choices]
    if plain.count(said := text.strip().rstrip(".。").casefold()) == 1:
        return LETTERS[plain.index(said)]
    for found in (_last(boxed(text) or "", _ALONE), _last(text, _SAID), _last(text, _FIRST)):
        if found is not None:
            return found if found in letters else None
    if (named := _named(text, problem)) is not None:
        return named
    alone = {one for match in _ALONE.finditer(text) if (one := match[1] or match[2])}
    return alone.pop() if len(alone) == 1 and alone <= set(letters) else None


def _last(text: str, pattern: re.Pattern[str]) -> str | None:
    found: str | None = text.strip() if pattern is _ALONE and len(text.strip()) == 1 else None
    for match in pattern.finditer(text):
        found = next(group for group in match.groups() if group)
    return found


def _named(text: str, problem: Problem) -> str | None:
    """The letter of the only choice whose text stands in the answer; of those within another, the longest."""
    said = text.casefold()
    named = [at for at, choice in enumerate(problem.choices) if len(choice) > 1 and _stands(choice.casefold(), said)]
    longest = [at for at in named if not any(_within(problem, at, other) for other in named)]
    return LETTERS[longest[0]] if len(longest) == 1 else None


def _stands(choice: str, said: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(choice.strip())}(?![a-z0-9])", said) is not None


def _within(problem: Problem, at: int, other: int) -> bool:
    inner, outer = problem.choices[at].casefold().strip(), problem.choices[other].casefold().strip()
    return at != other and inner != outer and inner in outer


def _regex(text: str, step: Step, problem: Problem) -> str | None:
    """As lm-evaluation-harness: of the first or last match the first group that is not empty, without space around it."""
    del problem
    found = re.findall(step.pattern, text)
    if not found:
        return None
    match = found[0 if step.take == "first" else -1]
    if isinstance(match, tuple):
        groups = [group for group in match if group]
        if not groups:
            return None
        match = groups[0]
    return str(match).strip()


def _hashes(text: str, step: Step, problem: Problem) -> str | None:
    """What follows the last (or first) ####, to the end of its line."""
    del problem
    if "####" not in text:
        return None
    after = text.split("####", 1)[1] if step.take == "first" else text.rsplit("####", 1)[1]
    return after.strip().split("\n", 1)[0].strip()


def _number(text: str, step: Step, problem: Problem) -> str | None:
    del problem
    numbers = _NUMBER.findall(text)
    return None if not numbers else numbers[0 if step.take == "first" else -1].replace(",", "")


def _dollars(text: str, step: Step, problem: Problem) -> str | None:
    del step, problem
    first, last = text.find("$"), text.rfind("$")
    return text[first + 1 : last] if first < last else None


def _line(text: str, step: Step, problem: Problem) -> str | None:
    del problem
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return None if not lines else lines[0 if step.take == "first" else -1]


_STEPS: Mapping[str, Callable[[str, Step, Problem], str | None]] = {
    "regex": _regex,
    "hashes": _hashes,
    "letter": lambda text, step, problem: letter_in(text, problem),
    "boxed": lambda text, step, problem: boxed(text),
    "final": lambda text, step, problem: final_answer(text),
    "number": _number,
    "dollars": _dollars,
    "line": _line,
    "strip": lambda text, step, problem: text.strip(),
    "code": lambda text, step, problem: code_in(text),
    "join": lambda text, step, problem: problem.input + text,
}
