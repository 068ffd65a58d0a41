"""A prompt that may be better: an instruction and demonstrations; as a strategy, and as a file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import SkipValidation

from dunwu.chat.options import ChatOptions
from dunwu.core.errors import DataError
from dunwu.core.files import read_json, write_json
from dunwu.core.problems import Problem
from dunwu.core.records import Message
from dunwu.prompt.strategies.base import Steps, Strategy, ask, assistant, user


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`instruction`: "" adds none. `shots`: those shown, in that order, the target being what the assistant says."""

    instruction: str = ""
    shots: tuple[Problem, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it leaves questions as they are."""
        return not self.instruction and not self.shots

    def to_json(self) -> dict[str, Any]:
        return {
            "instruction": self.instruction,
            "shots": [{"question": one.input, "answer": one.target} for one in self.shots],
        }


class Prompted(Strategy):
    """The instruction as the system message, after what stands there already; the demonstrations as turns before the question."""

    title: ClassVar[str] = "prompted"
    candidate: SkipValidation[Candidate]

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        turns = list(messages)
        if self.candidate.instruction:
            if turns[0].role == "system":
                both = f"{turns[0].content.rstrip()}\n\n{self.candidate.instruction}"
                turns[0] = replace(turns[0], content=both)
            else:
                turns.insert(0, Message(role="system", content=self.candidate.instruction))
        shown = [turn for one in self.candidate.shots for turn in (user(one.input), assistant(one.target))]
        return (yield from ask((*turns[:-1], *shown, turns[-1]), options, last=True))


def write_candidate(path: Path, candidate: Candidate, **facts: Any) -> None:
    """A file that `prompted:file=…` reads. `facts`: what else it says, for people."""
    write_json(path, {"prompt": candidate.to_json(), **facts})


def read_candidate(path: Path | str) -> Candidate:
    """Raises DataError for a file that holds no prompt."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file} does not exist; give a file that `dunwu prompt search` wrote")
    held: Any = read_json(file)
    prompt: Any = cast("dict[str, Any]", held).get("prompt") if isinstance(held, dict) else None
    try:
        return Candidate(
            instruction=str(prompt["instruction"]),
            shots=tuple(
                Problem(id=f"{file.name}#{number}", input=str(one["question"]), target=str(one["answer"]))
                for number, one in enumerate(prompt["shots"], 1)
            ),
        )
    except (TypeError, KeyError) as error:
        raise DataError(
            f'{file} holds no prompt: {{"prompt": {{"instruction": …, "shots": [{{"question": …, "answer": …}}]}}}}; give a file '
            "that `dunwu prompt search` wrote"
        ) from error
