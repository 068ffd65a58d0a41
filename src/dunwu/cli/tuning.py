"""`dunwu tune` and `dunwu align`: what they are given, as words of `dunwu build`."""

from collections.abc import Sequence
from pathlib import Path

from dunwu.core.errors import RecipeError
from dunwu.core.overrides import looks_like_override
from dunwu.core.policy import METHODS as POLICY_METHODS

METHODS = {"full": [], "qlora": ["sft.delta.method=lora", "sft.base_weights=nf4"]}
"""Methods that are more, or less, than a delta of that name."""
GENERATED = {"prefer": ("world",), "reward": ("world",), "rl": ("world", "sums")}
"""By section, sources that are no file: the small world, word problems."""


def words(model: str, data: Sequence[str], *, method: str, out: Path | None) -> list[str]:
    """A base, files of conversations, and a method, as overrides. Raises RecipeError where there is no file."""
    learning = METHODS.get(method, [f"sft.delta.method={method}"])
    return _words(
        model,
        data,
        "sft",
        learning,
        out,
        "there is nothing to tune on; give a file of conversations: dunwu tune MODEL FILE",
    )


def preferring_words(model: str, data: Sequence[str], *, method: str, delta: str, out: Path | None) -> list[str]:
    """A base, files of preferences, a method and what learns, as overrides. Raises RecipeError where there is no file."""
    learning = [f"prefer.objective.method={method}", *([] if delta == "full" else [f"prefer.delta.method={delta}"])]
    nothing = "there is nothing to learn from; give a file of preferences: dunwu align MODEL FILE"
    return _words(model, data, "prefer", learning, out, nothing)


def aligning_words(
    model: str, data: Sequence[str], *, method: str, delta: str, out: Path | None, rewards: Sequence[str]
) -> list[str]:
    """`preferring_words`, or with a method that learns from rewards a base, prompts, rewards and what learns, as overrides.

    Raises RecipeError where there is no file, and where rewards and method do not go together.
    """
    if method == "reward" and not rewards:
        learning = [] if delta == "full" else [f"reward.delta.method={delta}"]
        nothing = "there is nothing to learn from; give a file of judgements: dunwu align MODEL FILE --method reward"
        return _words(model, data, "reward", learning, out, nothing)
    if method not in POLICY_METHODS:
        if rewards:
            raise RecipeError(
                f"--reward {rewards[0]}: {method} learns from pairs of answers, not from rewards; give --method grpo, rloo, "
                "reinforce++, ppo or distill"
            )
        return preferring_words(model, data, method=method, delta=delta, out=out)
    judged = rewards or any(word.startswith("rl.rewards") for word in data)
    if not judged and method != "distill":
        raise RecipeError(
            f"{method} needs to know how answers are judged: give --reward KIND, such as --reward exact, --reward math, "
            "--reward world or --reward function:FILE.py:NAME"
        )
    learning = [
        *(f"rl.rewards.{number}={reward}" for number, reward in enumerate(rewards)),
        f"rl.algorithm.method={method}",
        *([] if delta == "full" else [f"rl.delta.method={delta}"]),
    ]
    nothing = "there is nothing to answer; give a file of prompts: dunwu align MODEL FILE --method grpo --reward KIND"
    return _words(model, data, "rl", learning, out, nothing)


def _source(section: str, number: int, file: str) -> str:
    if file in GENERATED.get(section, ()) and not Path(file).exists():
        return f"{section}.sources.{number}.kind={file}"
    return f"{section}.sources.{number}.path={file}"


def _words(
    model: str, data: Sequence[str], section: str, learning: Sequence[str], out: Path | None, nothing: str
) -> list[str]:
    overrides = [word for word in data if looks_like_override(word) and not Path(word).exists()]
    files = [word for word in data if word not in overrides]
    if not files:
        raise RecipeError(nothing)
    return [
        f"base={model}",
        *(_source(section, number, file) for number, file in enumerate(files)),
        *learning,
        *([f"out={out}"] if out is not None else []),
        *overrides,
    ]
