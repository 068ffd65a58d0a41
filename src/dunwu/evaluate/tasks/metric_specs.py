"""What a task's YAML may say of its metrics: those of likelihoods by name, those of texts with their filters and scorer."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dunwu.core.rewards import AnyReward, ExactReward, ModelReward, RewardSpec
from dunwu.core.section import Section, with_tuples

ChoiceMetricName = Literal["acc", "acc_norm", "acc_bytes", "acc_tokens", "acc_mutual", "mc2"]
TargetMetricName = Literal["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "greedy"]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


class ChoiceMetric(Section):
    """Whether the likeliest choice is right, by its log-probability: as it is (`acc`), a character (`acc_norm`, as
    lm-evaluation-harness counts), a byte, a token, or against how likely it is without the question (`acc_mutual`).

    `mc2`: the probability that right choices have of that of all, where several are right (the column `labels`, 0 or 1 each).
    """

    outputs: ClassVar[tuple[str, ...]] = ("choice",)
    kind: Literal["choice"] = "choice"
    measure: ChoiceMetricName

    @property
    def name(self) -> str:
        return self.measure


class TargetMetric(Section):
    """How likely the target is: perplexity a problem (`perplexity`, exp of the mean of its nats, as lm-evaluation-harness has it
    for LAMBADA), a word or a byte; and whether each of its tokens is the likeliest (`greedy`)."""

    outputs: ClassVar[tuple[str, ...]] = ("perplexity",)
    kind: Literal["target"] = "target"
    measure: TargetMetricName

    @property
    def name(self) -> str:
        return self.measure


class Step(Section):
    r"""One step that takes an answer out of a text.

    `regex`: the first group that matched, or all of the match; `hashes`: what follows ####; `letter`: the letter of the choice
    that is named; `boxed`: what stands in \boxed{}; `final`: what the text marks as its answer, or its last number; `number`: a
    number; `dollars`: from the first $ to the last; `line`: a line; `strip`: without space around it; `code`: the last block between ``` lines; `join`: the problem's
    input and the text after it.
    """

    kind: Literal["regex", "hashes", "letter", "boxed", "final", "number", "dollars", "line", "strip", "code", "join"]
    pattern: Annotated[str, AfterValidator(_pattern)] = ""
    take: Literal["first", "last"] = "first"
    otherwise: str | None = "[invalid]"  # where nothing is found; None: the text as it was

    @model_validator(mode="after")
    def _has_pattern(self) -> "Step":
        if (self.kind == "regex") != bool(self.pattern):
            raise ValueError("a filter has a `pattern` where its kind is regex, and only there")
        return self


def _step(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict) and "kind" not in value and "regex" in value:
        rest = {key: item for key, item in value.items() if key != "regex"}
        return {"kind": "regex", "pattern": value["regex"], **rest}
    return value


AnyStep = Annotated[Step, BeforeValidator(_step)]


class TextMetric(Section):
    """What a scorer says of a completion after its filters. The scorer reads the columns of the row, and `target` of the problem."""

    outputs: ClassVar[tuple[str, ...]] = ("text", "choice")
    kind: Literal["text"] = "text"
    name: Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]
    filters: tuple[AnyStep, ...] = ()
    score: AnyReward = ExactReward(answer="target")

    @model_validator(mode="after")
    def _is_a_grade(self) -> "TextMetric":
        if isinstance(self.score, ModelReward):
            raise ValueError("a reward model is no metric of a task; use one of the other kinds, such as judge")
        for key in ("name", "weight", "scale", "clip"):
            if getattr(self.score, key) != RewardSpec.model_fields[key].default:
                raise ValueError(
                    f"score.{key} is for rewards, which are added up; a metric stands by itself: leave it out"
                )
        return self


def _metric(value: Any) -> Any:
    if isinstance(value, str):
        kind = "choice" if value in ChoiceMetricName.__args__ else "target"  # type: ignore[attr-defined]
        return {"kind": kind, "measure": value}
    value = with_tuples(value)
    return {"kind": "text", **value} if isinstance(value, dict) else value


AnyMetric = Annotated[
    Annotated[ChoiceMetric | TargetMetric | TextMetric, Field(discriminator="kind")], BeforeValidator(_metric)
]
"""A metric in full, or the name of one of likelihoods."""
