"""What one rollout gave, whole: prompts, answers, what each token was chosen with, and how answers were judged.

It is on disk before anything is learned from it, and is read again by a run that was killed.
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.align.advantages.annotated import Judged
from dunwu.align.answers import CHOSEN, Answer, Item
from dunwu.align.rollout import Sampled
from dunwu.core.files import atomic_write, disk_errors

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Rollout `number`, made by the weights after `step` updates.

    `prompts`: which of all prompts were asked, and `items` their ids with those of the answers, as many to each; per answer
    `texts`, `reasons` why it ended, `scores_A`, and each part of them. Of each token, answer after answer: `engine_N`, its
    log-probability by the engine; where known `policy_N`, by the trainer, `reference_N` and `value_N`. `measured`: figures that
    nothing depends on.
    """

    step: int
    number: int
    prompts: tuple[int, ...]
    items: tuple[Item, ...]
    texts: tuple[str, ...]
    reasons: tuple[str, ...]
    scores_A: Floats
    parts: Mapping[str, tuple[float, ...]]
    kl_coefficient: float
    engine_N: Floats
    policy_N: Floats | None = None
    reference_N: Floats | None = None
    value_N: Floats | None = None
    measured: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def count(self) -> int:
        """Answers to a prompt."""
        return len(self.items[0].answers)

    @property
    def tokens_A(self) -> npt.NDArray[np.int64]:
        """How long each answer is."""
        return np.array([len(answer.ids) for item in self.items for answer in item.answers], np.int64)

    def judged(self, most_tokens: int) -> Judged:
        """What methods look at."""
        return Judged(
            scores_A=self.scores_A,
            count=self.count,
            tokens_A=self.tokens_A,
            ended_A=np.array([reason == "stop" for reason in self.reasons]),
            most_tokens=most_tokens,
            logprob_N=self.engine_N if self.policy_N is None else self.policy_N,
            reference_N=self.reference_N,
            value_N=self.value_N,
            kl_coefficient=self.kl_coefficient,
        )


def item_of(prompt: Sequence[int], answers: Sequence[Sampled]) -> Item:
    """A prompt and its answers; all that was chosen counts."""
    return Item(
        np.array(prompt, np.int32),
        tuple(Answer(np.array(one.ids, np.int32), np.ones(len(one.ids), bool), CHOSEN) for one in answers),
    )


_ARRAYS = ("engine_N", "policy_N", "reference_N", "value_N")


def write_experience(folder: Path, experience: Experience, key: str) -> None:
    """Put it on disk, whole or not at all; `key` says of which run it is. Raises DiskError."""
    body = json.dumps({"key": key, **_plain(experience)}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with atomic_write(file_of(folder, experience.step, experience.number)) as file:
        file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def read_experience(folder: Path, step: int, number: int, key: str) -> Experience | None:
    """What `write_experience` put there; None where there is none, it is damaged, or it is of another run."""
    file = file_of(folder, step, number)
    with disk_errors(file):
        data = file.read_bytes() if file.is_file() else b""
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    values = json.loads(body.decode("utf-8", "surrogatepass"))
    return _experience(values) if values.pop("key") == key else None


def prune_experience(folder: Path, least_step: int) -> None:
    """Remove those made before `least_step`."""
    for file in folder.glob("step-*.json"):
        if int(file.name.split("-")[1]) < least_step:
            file.unlink(missing_ok=True)


def file_of(folder: Path, step: int, number: int) -> Path:
    """Where that rollout lies."""
    return folder / f"step-{step:08d}-{number:08d}.json"


def _plain(one: Experience) -> dict[str, Any]:
    return {
        "step": one.step,
        "number": one.number,
        "kl_coefficient": one.kl_coefficient,
        "measured": dict(one.measured),
        "prompts": list(one.prompts),
        "prompt_ids": [item.prompt.tolist() for item in one.items],
        "answer_ids": [[answer.ids.tolist() for answer in item.answers] for item in one.items],
        "texts": list(one.texts),
        "reasons": list(one.reasons),
        "scores": one.scores_A.tolist(),
        "parts": {name: [None if math.isnan(v) else v for v in values] for name, values in one.parts.items()},
        **{name: _packed(getattr(one, name)) for name in _ARRAYS},
    }


def _experience(values: Mapping[str, Any]) -> Experience:
    items = tuple(
        Item(
            np.array(prompt, np.int32),
            tuple(Answer(np.array(ids, np.int32), np.ones(len(ids), bool), CHOSEN) for ids in answers),
        )
        for prompt, answers in zip(values["prompt_ids"], values["answer_ids"], strict=True)
    )
    engine_N = _unpacked(values["engine_N"])
    assert engine_N is not None
    return Experience(
        step=values["step"],
        number=values["number"],
        prompts=tuple(values["prompts"]),
        items=items,
        texts=tuple(values["texts"]),
        reasons=tuple(values["reasons"]),
        scores_A=np.array(values["scores"], np.float64),
        parts={
            name: tuple(math.nan if value is None else value for value in part)
            for name, part in values["parts"].items()
        },
        kl_coefficient=values["kl_coefficient"],
        engine_N=engine_N,
        policy_N=_unpacked(values["policy_N"]),
        reference_N=_unpacked(values["reference_N"]),
        value_N=_unpacked(values["value_N"]),
        measured=values["measured"],
    )


def _packed(values: Floats | None) -> str | None:
    return None if values is None else base64.b64encode(values.astype("<f8").tobytes()).decode()


def _unpacked(text: str | None) -> Floats | None:
    return None if text is None else np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64)
