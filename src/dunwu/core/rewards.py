"""What a recipe or a caller says of a reward: one frozen, strict specification a scorer.

What each does is in `dunwu/evaluate/scorers/`, one file each. A new one is a specification here with its place in `AnyReward`, a
file there, and a line in `evaluate/scorers/registry.py`. On a command line a short form stands for one: see `short_form`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dunwu.core.errors import RecipeError
from dunwu.core.nearest import validated
from dunwu.core.section import Bytes, Count, Rate, Section, with_tuples


def _range(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    if bounds is not None and bounds[0] >= bounds[1]:
        raise ValueError(f"{list(bounds)} is no range; write the lower bound first, such as [-1, 1]")
    return bounds


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


Clip = Annotated[tuple[float, float] | None, AfterValidator(_range)]
NotNegative = Annotated[float, Field(ge=0)]


class RewardSpec(Section):
    """A scorer and its options. Each has a field `kind`, its key in `evaluate/scorers/registry.py`.

    A score is multiplied by `scale`, kept within `clip`, and counts `weight` times in the total. `argument`: the field that a
    short form's text after the colon stands for.
    """

    argument: ClassVar[str] = ""
    name: Annotated[str, Field(pattern=r"^[\w.-]{0,64}$")] = ""  # what its part is called; empty: its kind
    weight: float = 1.0
    scale: float = 1.0
    clip: Clip = None

    @property
    def kind_name(self) -> str:
        """The kind."""
        return str(self.model_dump(include={"kind"})["kind"])


class ModelReward(RewardSpec):
    """A reward model's score."""

    argument: ClassVar[str] = "path"
    kind: Literal["model"] = "model"
    path: str = ""  # its folder; empty: the reward stage of this build


class ExactReward(RewardSpec):
    """1 where the answer is what the row says, 0 otherwise."""

    argument: ClassVar[str] = "answer"
    kind: Literal["exact"] = "exact"
    answer: str = "answer"  # the column; a list there holds several right answers
    where: Literal["whole", "last_line", "first_line", "contains"] = "whole"
    ignore_case: bool = True
    ignore_punctuation: bool = True


class MathReward(RewardSpec):
    """1 where the final answer equals, as a value, the one of the row; 0 otherwise."""

    argument: ClassVar[str] = "answer"
    kind: Literal["math"] = "math"
    answer: str = "answer"  # the column; text that reasons first, as in GSM8K, is read for its own final answer
    compare: Literal["own", "math_verify"] = "own"  # math_verify understands algebra; pip install 'dunwu[rewards]'
    last_number: bool = True  # an answer that marks nothing as final is judged by its last number


class WorldReward(RewardSpec):
    """1 where an answer about the small world is right by its question's own rule, 0 otherwise."""

    argument: ClassVar[str] = "grade"
    kind: Literal["world"] = "world"
    grade: str = "grade"  # the column


class SchemaReward(RewardSpec):
    """1 where the answer is JSON that a schema holds valid, 0 otherwise."""

    argument: ClassVar[str] = "file"
    kind: Literal["schema"] = "schema"
    file: str = ""  # of the schema; empty: the row's column of that name
    column: str = "schema"
    fenced: bool = True  # JSON between ``` lines counts too


class CodeReward(RewardSpec):
    """The tests of the row, run against the code of the answer behind walls. `allow_weak`: also on a machine without them."""

    argument: ClassVar[str] = "tests"
    kind: Literal["code"] = "code"
    tests: str = "tests"  # the column: Python text, or a list of texts, each a test
    count: Literal["all", "share"] = "all"  # 1 only where all pass, or the share that passes
    timeout_s: Rate = 10.0
    memory: Bytes = "512MB"
    allow_weak: bool = False


class LengthReward(RewardSpec):
    """0 from `least` to `most`; beyond, it falls in a line, to -1 at `slack` too many or too few (arXiv:2503.14476 eq. 13)."""

    argument: ClassVar[str] = "most"
    kind: Literal["length"] = "length"
    unit: Literal["tokens", "characters"] = "tokens"
    least: Annotated[int, Field(ge=0)] = 0
    most: Count
    slack: Annotated[int, Field(ge=0)] = 0  # 0: -1 at once


class FormatReward(RewardSpec):
    """The share of what is asked of the form that an answer keeps: a pattern, tags, and that it ends by itself."""

    argument: ClassVar[str] = "pattern"
    kind: Literal["format"] = "format"
    pattern: str = (
        ""  # a regular expression that must be found; ^ and $ are the ends of the answer, . is also a new line
    )
    tags: tuple[Annotated[str, Field(pattern=r"^[\w:-]+$")], ...] = ()  # each opened and closed once, in this order
    ends: bool = False  # it must end its turn by itself
    timeout_s: Rate = 1.0  # for an answer; whoever takes longer has no match


class JudgeReward(RewardSpec):
    """What another model says of the answer: a mark from 1 to 10, whether it is better than the row's reference, or the share of
    a rubric's points that it meets."""

    argument: ClassVar[str] = "model"
    kind: Literal["judge"] = "judge"
    model: str = ""  # a model's folder or home, or its name at `url`; empty: the partner that the caller has
    url: str = ""
    key_env: str = "OPENAI_API_KEY"
    mode: Literal["mark", "pairwise", "rubric"] = "mark"
    rubric: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # of `rubric`: points, each of which is met or not
    criteria: str = ""  # what the judge is told to look at; empty: whether it is right and helpful
    reference: str = "answer"  # the column: what `pairwise` compares with, in both orders
    unread: float | None = None  # the score of a verdict that cannot be read, asked twice; None: it says nothing

    @model_validator(mode="after")
    def _has_points(self) -> "JudgeReward":
        if (self.mode == "rubric") != bool(self.rubric):
            raise ValueError("a judge has a `rubric`, a list of points, where its mode is rubric, and only there")
        return self


class MatchReward(RewardSpec):
    """1 where the whole answer is what the row says, after what is left out of both; lm-evaluation-harness's exact_match."""

    argument: ClassVar[str] = "answer"
    kind: Literal["match"] = "match"
    answer: str = "answer"  # the column; a list there holds several right answers
    ignore: tuple[
        Annotated[str, AfterValidator(_pattern)], ...
    ] = ()  # expressions whose matches are left out, in this order
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_numbers: bool = False
    latex: bool = False  # LaTeX in one way of writing, as the authors of MATH compare


class OverlapReward(RewardSpec):
    """How much of a reference an answer shares, from 0 to 1; of several references, the best. pip install 'dunwu[metrics]'"""

    argument: ClassVar[str] = "measure"
    kind: Literal["overlap"] = "overlap"
    measure: Literal["bleu", "chrf", "chrf++", "rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    answer: str = "answer"  # the column; a list there holds several references
    tokenize: Literal["auto", "13a", "zh", "char", "intl", "none"] = "auto"  # of bleu; auto: zh where there is Chinese
    stem: bool = False  # of ROUGE: English words by their stems


class ObjectionReward(RewardSpec):
    """Whether an answer says that its question rests on nothing, or cannot be answered.

    `of`: `right` counts objections to such questions, `wrong` objections to their sound twins (less is better), `answered` right
    answers to the twins, and `all` what is right on either side.
    """

    argument: ClassVar[str] = "of"
    kind: Literal["objection"] = "objection"
    of: Literal["right", "wrong", "answered", "all"] = "all"
    by: Literal["words", "world"] = (
        "words"  # words that objections usually have, or the small world's rules (column `grade`)
    )
    sound: str = "sound"  # the column: whether the question is a sound one
    answer: str = "answer"  # the column: what a sound question is answered with; a list there holds several
    objections: str = "objections"  # the column, where there is one: further expressions that object to this question


class FunctionReward(RewardSpec):
    """A Python function of yours: `def NAME(prompts, completions, **columns) -> list[float | None]`."""

    argument: ClassVar[str] = "path"
    kind: Literal["function"] = "function"
    path: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")]  # FILE.py:NAME
    messages: bool = False  # prompts and completions come as lists of messages, not as texts
    timeout_s: Rate = 60.0  # for one call


SPECS: Mapping[str, type[RewardSpec]] = {
    "model": ModelReward,
    "exact": ExactReward,
    "math": MathReward,
    "world": WorldReward,
    "schema": SchemaReward,
    "code": CodeReward,
    "length": LengthReward,
    "format": FormatReward,
    "judge": JudgeReward,
    "match": MatchReward,
    "overlap": OverlapReward,
    "objection": ObjectionReward,
    "function": FunctionReward,
}


def short_form(text: str) -> dict[str, Any]:
    """The options that a short form stands for: `math`, `0.1*length:200`, `function:FILE.py:NAME`, or an object in JSON.

    Raises RecipeError where there is no such kind.
    """
    if text.lstrip().startswith("{"):
        return _object(text)
    before, star, rest = text.partition("*")
    weight = _number(before) if star else None
    kind, colon, argument = (text if weight is None else rest).strip().partition(":")
    if kind not in SPECS:
        raise RecipeError(f"reward {text!r}: there is no {kind!r}; known are {', '.join(SPECS)}")
    if colon and not argument:
        raise RecipeError(
            f"reward {text!r}: nothing follows the colon; write {kind} or {kind}:{SPECS[kind].argument.upper()}"
        )
    return {
        "kind": kind,
        **({SPECS[kind].argument: _argument(text, kind, argument)} if colon else {}),
        **({"weight": weight} if weight is not None else {}),
    }


def _argument(text: str, kind: str, argument: str) -> str | int:
    """As the kind wants it: a number where its field is one."""
    if SPECS[kind].model_fields[SPECS[kind].argument].annotation is not int:
        return argument
    try:
        return int(argument)
    except ValueError as error:
        raise RecipeError(f"reward {text!r}: {argument!r} is not a whole number; write {kind}:200") from error


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RecipeError(f'reward {text!r} is not valid JSON ({error}); write {{"kind": "math", …}}') from error
    return cast("dict[str, Any]", value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _long_form(value: Any) -> Any:
    try:
        return with_tuples(short_form(value) if isinstance(value, str) else value)
    except RecipeError as error:
        raise ValueError(str(error)) from error


AnyReward = Annotated[
    Annotated[
        ModelReward | ExactReward | MathReward | WorldReward | SchemaReward
        | CodeReward | LengthReward | FormatReward | JudgeReward | FunctionReward
        | MatchReward | OverlapReward | ObjectionReward,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_long_form),
]  # fmt: skip
"""Every scorer's specification, in full or as a short form."""


class _Holder(Section):
    rewards: tuple[AnyReward, ...]


def reward_specs(values: Sequence[Mapping[str, Any] | str]) -> tuple[RewardSpec, ...]:
    """The specifications that mappings or short forms stand for.

    Raises RecipeError naming the key, its value, the rule, and the nearest key where one is not known.
    """
    plain = [short_form(value) if isinstance(value, str) else dict(value) for value in values]
    return validated(_Holder, {"rewards": plain}).rewards
