"""A task at work: its rows as problems, a problem as a prompt in plain text or as a conversation."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dunwu.core.errors import DataError
from dunwu.core.lineage import stable_hash
from dunwu.core.problems import Problem
from dunwu.core.records import Message
from dunwu.evaluate.tasks.making import LETTERS, ProblemMaker
from dunwu.evaluate.tasks.rendering import text_of, value_of
from dunwu.evaluate.tasks.rows import TaskRow
from dunwu.evaluate.tasks.sources import NoSplitError, Place, read_split, split_files
from dunwu.evaluate.tasks.spec import TaskSpec

Rows = Callable[[str], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A specification with its data. `only`: the subjects wanted, all where empty. `rows`: a function that gives the rows of a
    split, where they lie in no file."""

    spec: TaskSpec
    place: Place = field(default_factory=Place)
    only: tuple[str, ...] = ()
    rows: Rows | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    def problems(self) -> tuple[Problem, ...]:
        """All that is asked, in the order of the data; ids are unique. Raises DataError naming file, row and field."""
        return self._problems

    def pool(self) -> tuple[Problem, ...]:
        """What demonstrations are taken from; empty where the task has nothing of the kind."""
        return self._pool

    def pool_about(self, subject: str) -> tuple[Problem, ...]:
        """The part of the pool that is about a subject; all of it, where the pool does not tell subjects."""
        return self._pool_by_subject.get(subject) or self._pool_by_subject.get("", ())

    def pool_of(self, problem: Problem) -> tuple[Problem, ...]:
        """What may be shown before a problem: the pool about its subject, itself left out."""
        pool = self.pool_about(problem.subject)
        return tuple(one for one in pool if one.id != problem.id) if self.asks_what_it_shows else pool

    @cached_property
    def asks_what_it_shows(self) -> bool:
        """Whether demonstrations come from the rows that are asked, so that a problem must not be shown itself."""
        shots, spec = self.spec.shots, self.spec
        if shots.examples or not shots.split or shots.split == spec.split or self.rows or spec.source.world:
            return not shots.examples and shots.split == spec.split
        subjects = self.only or tuple(spec.subjects)
        try:
            files = [split_files(spec, split, self.place, subjects) for split in (shots.split, spec.split)]
        except NoSplitError:
            return False
        return files[0] == files[1]  # a folder that the user gave may hold one file for both

    # ---------------------------------------------------------------------------------------------------- as text

    def text(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        """The whole prompt in plain text, up to where the answer begins; of a choice with `contexts`, without those."""
        return self._before(problem, shots) + self._asked(problem.input)

    def pairs(self, problem: Problem, shots: Sequence[Problem] = ()) -> tuple[tuple[str, str], ...]:
        """(context, continuation) whose likelihoods decide: one a choice, or one for the target of output=perplexity."""
        spec = self.spec
        if spec.output == "perplexity":
            delimiter = spec.delimiter if problem.input else ""
            return ((self.text(problem, shots), delimiter + problem.target),)
        before = self._before(problem, shots)
        if spec.contexts:
            target = spec.delimiter + problem.target
            return tuple((before + context, target) for context in _contexts(spec, problem))
        context = before + self._asked(problem.input)
        return tuple((context, spec.delimiter + choice) for choice in problem.choices)

    def alone(self, problem: Problem) -> tuple[tuple[str, str], ...]:
        """The same continuations after nothing, for what they are worth without the question."""
        return tuple(("", continuation) for _, continuation in self.pairs(problem))

    def _before(self, problem: Problem, shots: Sequence[Problem]) -> str:
        shown = "".join(self._shown(shot) + self.spec.shots.separator for shot in shots)
        return self.description(problem) + shown

    def _shown(self, shot: Problem) -> str:
        spec = self.spec
        if spec.contexts and shot.right is not None:
            return _contexts(spec, shot)[shot.right] + spec.delimiter + shot.target
        answer = _joined(spec.prefix, shot.target)
        return shot.input + (spec.delimiter if answer else "") + answer

    def _asked(self, text: str) -> str:
        """The input, and the beginning of the answer where the task gives one."""
        prefix = self.spec.prefix
        if not prefix:
            return text
        parted = not text or text[-1].isspace() or prefix[0].isspace()
        return text + ("" if parted else self.spec.delimiter) + prefix

    # ------------------------------------------------------------------------------------------- as a conversation

    def messages(self, problem: Problem, shots: Sequence[Problem] = ()) -> tuple[Message, ...]:
        """The same for a chat: a turn of the user's and of the assistant's for each demonstration. Choices are lettered, and the
        answer is a letter, unless the task says how a chat is asked."""
        description = self.description(problem).strip()
        turns = [Message(role="system", content=description)] if description else []
        for shot in shots:
            turns.append(Message(role="user", content=self._question(shot)))
            turns.append(Message(role="assistant", content=self._answer(shot)))
        return (*turns, Message(role="user", content=self._question(problem)))

    def letters(self, problem: Problem) -> str:
        """What a chat's answer is read by: a letter for each choice."""
        return LETTERS[: len(problem.choices)]

    def _question(self, problem: Problem) -> str:
        if self.spec.ask:
            return text_of(self.spec.ask, {**problem.columns, "input": problem.input, "choices": problem.choices})
        if self.spec.output != "choice" or _is_lettered(problem):
            return problem.input
        if len(problem.choices) > len(LETTERS):
            raise DataError(
                f"{self.name}: {problem.id} has {len(problem.choices)} choices, more than there are letters; ask by likelihood"
            )
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, problem.choices, strict=False))
        order = (
            "请只回答正确选项的字母。"
            if problem.language == "zh"
            else "Answer with the letter of the right choice alone."
        )
        return f"{problem.input}\n{options}\n{order}" if problem.input else f"{options}\n{order}"

    def _answer(self, problem: Problem) -> str:
        return LETTERS[problem.right] if problem.right is not None else problem.target

    # ------------------------------------------------------------------------------------------------- the subject

    def description(self, problem: Problem) -> str:
        """What stands before everything, for the problem's subject."""
        given = self.spec.description
        if not isinstance(given, str):
            if problem.subject not in given:
                remedy = (
                    f"add description.{problem.subject}" if problem.subject else "say by `subject` how rows tell theirs"
                )
                raise DataError(f"{self.name}: there is no description of the subject {problem.subject!r}; {remedy}")
            given = given[problem.subject]
        name = self.spec.subjects.get(problem.subject, problem.subject)
        return text_of(given, {**problem.columns, "subject": problem.subject, "subject_name": name})

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that the task asks and how; what is shown before it is told by prompts alone."""
        asked = [[p.id, p.input, p.target, list(p.choices), p.right] for p in self._problems]
        return stable_hash([self.spec.model_dump(mode="json"), asked])

    # ---------------------------------------------------------------------------------------------------- the rows

    @cached_property
    def _problems(self) -> tuple[Problem, ...]:
        self._check_subjects(self.only, "is asked for")
        problems = tuple(self._read(self.spec.split))
        if not problems:
            if self.only and (others := replace(self, only=()).problems()):
                have = ", ".join(dict.fromkeys(problem.subject for problem in others))
                raise DataError(
                    f"{self.name} has no question of {', '.join(self.only)} in these data, which have {have}"
                )
            raise DataError(f"{self.name} has no question that `where` keeps; mend it, or give other data")
        return problems

    @cached_property
    def _pool(self) -> tuple[Problem, ...]:
        shots = self.spec.shots
        if shots.examples:
            rows = (("", TaskRow(row, f"shots.examples[{at}]", Path())) for at, row in enumerate(shots.examples))
            return tuple(self._made(rows, shown=True))
        if not shots.split:
            return ()
        if self._same_templates:
            return self._problems
        try:
            return tuple(self._read(shots.split, shown=True))
        except NoSplitError:  # who asks without demonstrations needs none
            return ()

    @property
    def _same_templates(self) -> bool:
        shots = self.spec.shots
        return self.asks_what_it_shows and shots.input is None and shots.target is None

    @cached_property
    def _pool_by_subject(self) -> dict[str, tuple[Problem, ...]]:
        groups: dict[str, list[Problem]] = {}
        for problem in self._pool:
            groups.setdefault(problem.subject, []).append(problem)
        return {subject: tuple(members) for subject, members in groups.items()}

    def _read(self, split: str, *, shown: bool = False) -> Iterator[Problem]:
        if self.rows is not None:
            rows = ((("", TaskRow(row, f"{split}, row {at}", Path()))) for at, row in enumerate(self.rows(split), 1))
        else:
            rows = read_split(self.spec, split, self.place, self.only or tuple(self.spec.subjects))
        return self._made(rows, shown=shown)

    def _made(self, rows: Iterable[tuple[str, TaskRow]], *, shown: bool) -> Iterator[Problem]:
        counts: dict[str, int] = {}
        places: dict[str, str] = {}
        for subject, row in rows:
            known = subject or (self.only[0] if len(self.only) == 1 else "")
            for maker in ProblemMaker(self.spec, row, known, shown=shown).each():
                problem = maker.problem(counts)
                if problem is None or (self.only and problem.subject and problem.subject not in self.only):
                    continue
                if problem.subject and self.spec.subjects:
                    self._check_subjects((problem.subject,), f"stands in {row.place}")
                if problem.id in places:
                    raise DataError(
                        f"{self.name}: {row.place} and {places[problem.id]} have the same id {problem.id!r}; ids are unique: "
                        "mend the rows, or the template `id`"
                    )
                places[problem.id] = row.place
                yield replace(problem, id=f"shown {problem.id}") if shown and not self.asks_what_it_shows else problem

    def _check_subjects(self, subjects: Sequence[str], why: str) -> None:
        for subject in subjects:
            if self.spec.subjects and subject not in self.spec.subjects:
                near = difflib.get_close_matches(subject, self.spec.subjects, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(self.spec.subjects)}"
                raise DataError(f"{self.name}: the unknown subject {subject!r} {why}; {hint}")


def _contexts(spec: TaskSpec, problem: Problem) -> list[str]:
    if isinstance(spec.contexts, str):
        return [str(one) for one in value_of(spec.contexts, problem.columns)]
    return [text_of(one, problem.columns) for one in spec.contexts]


def _is_lettered(problem: Problem) -> bool:
    """Whether the choices are letters, which the input then explains."""
    return all(choice.strip("() ") in LETTERS for choice in problem.choices)


def _joined(prefix: str, answer: str) -> str:
    if not prefix or not answer:
        return prefix + answer
    return prefix + ("" if prefix[-1].isspace() or answer[0].isspace() else " ") + answer
