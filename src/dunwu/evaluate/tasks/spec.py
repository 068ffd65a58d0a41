"""What a task's YAML may say: one strict, frozen specification.

A value in a template is a column of the row or one of `fields`. What is one `{{ expression }}` and nothing else keeps its kind:
a list stays a list, a number a number. `docs/tasks.md` tells the same with examples.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dunwu.core.recipe import Language, QuestionKind
from dunwu.core.section import Count, Section, with_tuples
from dunwu.evaluate.tasks.metric_specs import AnyMetric

Output = Literal["choice", "text", "perplexity"]
Templates = str | tuple[str, ...]


def _name(text: str) -> str:
    if not text or any(character.isspace() or character in "/\\:,@+=" for character in text):
        raise ValueError(f"{text!r} is no name of a task; use letters, digits, - and _")
    return text


Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class WorldRows(Section):
    """The exam of the small world (split `test`) and questions that share no facts with it (split `train`)."""

    seed: int = 0
    size: Annotated[float, Field(gt=0)] = 1.0
    per_kind: Count = 100
    kinds: tuple[QuestionKind, ...] = ()  # none: all
    languages: tuple[Language, ...] = ("en", "zh")


class Source(Section):
    """Where the rows come from: files of this machine, a data set of the hub, or the small world.

    `{subject}` in `hub`, `config` and `files` stands for each of the subjects. `files`: paths, patterns (`*`, `**`) or folders,
    relative to the YAML, of each split; a bare list is of the split `test`. `config`: the data set's configuration.
    """

    hub: str = ""
    config: str = "default"
    mirror: str = ""  # an address that answers as the hub does; empty: HF_ENDPOINT, or the hub itself
    files: Annotated[Mapping[str, Texts], BeforeValidator(lambda value: _by_split(value))] = Field(default_factory=dict)
    world: WorldRows | None = None
    rows: str = ""  # the key of a .json object that holds the list of rows
    columns: tuple[str, ...] = ()  # names of a table's columns where it has no header
    names: tuple[str, ...] = ()  # patterns of files' names: which are this task's in a folder that the user gives
    only_named: bool = False  # whether other files of such a folder are left alone


def _by_split(value: Any) -> Any:
    return {"test": value} if isinstance(value, str | list | tuple) else value


class Shots(Section):
    """Demonstrations: how many are usual, and where they come from.

    `choose`: the first rows of the split, or drawn by a seed. `examples`: rows written here, instead of a split. Of those
    `input`, `target` and `choices` replace the task's own templates where they are given.
    """

    count: Annotated[int, Field(ge=0)] = 0
    split: str = ""
    where: str = ""  # as the task's own, of these rows
    choose: Literal["first", "random"] = "first"
    examples: tuple[Mapping[str, Any], ...] = ()
    separator: str = "\n\n"
    input: str | None = None
    target: str | None = None


class TaskSpec(Section):
    """A task. Templates make of each row a `Problem`; see its docstring for what `input`, `target` and `choices` are.

    Of a choice, `right` gives the place (from 0), the letter, or the text of the right one, or a list where several are. `contexts`: where choices do not
    follow the input but go into it, one input for each, which `target` then follows. `prefix` begins the answer.
    """

    name: Annotated[str, AfterValidator(_name)]
    about: str = ""
    language: str = "en"
    output: Output = "text"
    source: Source = Source()
    split: str = "test"
    subjects: Mapping[str, str] = Field(default_factory=dict)  # key → how prompts call it
    fields: Mapping[str, Any] = Field(default_factory=dict)
    where: str = ""  # an expression: rows for which it is false are left out
    each: str = ""  # an expression that gives a list: one problem for each `item` of it, whose place is `item_number`
    id: str = ""
    subject: str = ""
    group: str = ""
    description: str | Mapping[str, str] = ""  # before everything; by subject where it is a mapping
    input: str
    target: str = ""
    choices: Templates = ()
    right: str | int = ""
    contexts: Templates = ()
    ask: str = ""  # what a chat is asked; empty: the input, with lettered choices where they are not in it
    delimiter: str = " "
    prefix: str = ""
    shots: Shots = Shots()
    stop: tuple[str, ...] = ()
    max_tokens: Count = 256
    metrics: tuple[AnyMetric, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return with_tuples(value)

    @model_validator(mode="after")
    def _whole(self) -> "TaskSpec":
        if self.output == "choice" and (not self.choices or self.right == ""):
            raise ValueError("output=choice needs `choices`, and `right`, which says the right one")
        if self.output != "choice" and self.contexts:
            raise ValueError("`contexts` are for output=choice")
        if self.output == "perplexity" and not self.target:
            raise ValueError("output=perplexity needs `target`: the text whose likelihood counts")
        for metric in self.metrics:
            if self.output not in metric.outputs:
                raise ValueError(
                    f"the metric {metric.name!r} is for output={' or '.join(metric.outputs)}, not {self.output}"
                )
        names = [metric.name for metric in self.metrics]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two metrics are called {twice!r}; give one of them a name of its own")
        return self
