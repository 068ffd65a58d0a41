"""A reward model to and from a Hugging Face `…ForSequenceClassification` directory, which transformers reads and scores alike.

What that format has no place for (how several heads make one score, what is read, how ties were told) stands in `dunwu.json`
beside it, under `reward_model`.
"""

from pathlib import Path
from typing import Any

import torch

from dunwu.align.reward.items import turn_end
from dunwu.align.reward.model import Ensemble, RewardModel, ScalarHead
from dunwu.core.errors import ModelError
from dunwu.core.files import read_json, write_json
from dunwu.model.config import DecoderConfig
from dunwu.model.families import family_of
from dunwu.model.folder import config_values
from dunwu.model.hub import load_backbone, save_model
from dunwu.tokenizer.like import TokenizerLike

HEAD = "score.weight"
FACTS_FILE = "dunwu.json"
FACTS_KEY = "reward_model"
_CLASS = "ForSequenceClassification"
_WITHOUT_CLASS = {"gemma3": "gemma3_text"}
"""Architectures whose class for scoring has a vision tower that we do not keep, and the one of their text side."""


def class_for_scoring(config: DecoderConfig) -> str:
    """The name of transformers' class. Raises ModelError where there is none that reads such a folder."""
    family = family_of(config.architecture)
    if family.model_type in _WITHOUT_CLASS:
        raise ModelError(
            f"transformers has no class that scores text alone with the architecture {family.model_type!r}, so that a reward "
            f"model of it could not be read by others; begin from a model of architecture "
            f"{_WITHOUT_CLASS[family.model_type]!r}, or of another"
        )
    return family.class_name.removesuffix("ForCausalLM") + _CLASS


def padding_id(tokenizer: TokenizerLike, config: DecoderConfig) -> int:
    """What transformers may fill rows up with. It reads a score before the first of these at a row's end, so never the token
    that ends a turn. Raises ModelError where the tokenizer has no other special token."""
    end = turn_end(tokenizer)
    wanted = (config.pad_token_id, tokenizer.eos_id, *sorted(tokenizer.special_ids.values()))
    for number in wanted:
        if number is not None and number != end and 0 <= number < config.vocab_size:
            return number
    raise ModelError(
        f"the tokenizer has no special token but {tokenizer.decode([end], skip_special=False)!r}, which ends a turn, and a "
        "reward model needs another one to fill rows up; add a padding token to it"
    )


def save_reward_model(model: RewardModel, folder: Path, *, pad_id: int) -> None:
    """Write the weights and both configurations; the tokenizer's files are the caller's to put there.

    Raises ModelError for an architecture that transformers cannot score with, DiskError.
    """
    heads = model.head.score.out_features
    labels = {str(number): f"LABEL_{number}" for number in range(heads)}
    settings: dict[str, Any] = {
        "architectures": [class_for_scoring(model.config)],
        "num_labels": heads,
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
        "problem_type": "regression",
        "pad_token_id": pad_id,
    }
    save_model(model.decoder, folder, head={HEAD: model.head.score.weight}, settings=settings)
    write_json(folder / FACTS_FILE, {FACTS_KEY: facts_of(model)})


def facts_of(model: RewardModel) -> dict[str, Any]:
    """What `dunwu.json` says of a reward model."""
    return {
        "heads": model.head.score.out_features,
        "combine": model.ensemble.combine,
        "caution": model.ensemble.caution,
        "reads": model.reads,
        "tie_threshold": model.tie_threshold,
    }


def reward_folder(place: Path) -> Path:
    """Where the reward model of a place lies: the place itself, or `reward/` of a build's home."""
    inside = place / "reward"
    return inside if not (place / "config.json").exists() and (inside / "config.json").exists() else place


def load_reward_model(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> RewardModel:
    """Read a reward model, ours or another's of the same form with one label.

    Raises ModelError where the folder holds something else, a file is missing or damaged, or numbers do not fit together.
    """
    names = config_values(folder).get("architectures") or ["nothing"]
    if not str(names[0]).endswith(_CLASS):
        raise ModelError(
            f"{folder} is no reward model: its config.json names {names[0]}, and one that scores names a class that ends in "
            f"{_CLASS}; make one with dunwu align MODEL FILE --method reward"
        )
    decoder, weight_KD = load_backbone(folder, HEAD, device=device, dtype=dtype)
    if weight_KD.ndim != 2 or weight_KD.shape[1] != decoder.config.hidden_size:
        raise ModelError(
            f"{HEAD} in {folder} has shape {tuple(weight_KD.shape)}, and the model is {decoder.config.hidden_size} wide; "
            "take both files from the same model"
        )
    said = _said(folder)
    if said is None and len(weight_KD) != 1:
        raise ModelError(
            f"{folder} has {len(weight_KD)} labels: it sorts texts into classes, and a reward model has one score; "
            "choose a model with num_labels 1"
        )
    said = said or {"heads": 1, "combine": "mean", "caution": 1.0, "reads": "answer", "tie_threshold": 0.0}
    if said["heads"] != len(weight_KD):
        raise ModelError(
            f"{folder / FACTS_FILE} says {said['heads']} heads, and {HEAD} has {len(weight_KD)}; take both from the same model"
        )
    head = ScalarHead(decoder.config.hidden_size, len(weight_KD)).to(device=device, dtype=weight_KD.dtype)
    with torch.no_grad():
        head.score.weight.copy_(weight_KD)
    return RewardModel(
        decoder,
        head,
        ensemble=Ensemble(combine=said["combine"], caution=said["caution"]),
        reads=said["reads"],
        tie_threshold=said["tie_threshold"],
    )


def _said(folder: Path) -> dict[str, Any] | None:
    """What `dunwu.json` says, if it does. Raises ModelError where it cannot be understood."""
    file = folder / FACTS_FILE
    values = read_json(file) if file.is_file() else {}
    said = values.get(FACTS_KEY) if isinstance(values, dict) else None
    if said is None:
        return None
    fit = (
        isinstance(said, dict)
        and {"heads", "combine", "caution", "reads", "tie_threshold"} <= said.keys()
        and said["combine"] in ("mean", "min", "cautious")
        and said["reads"] in ("answer", "steps")
    )
    if not fit:
        raise ModelError(f"{file} says {said!r} of the reward model, which was written by another version of dunwu")
    return said


def require_same_ids(reward: TokenizerLike, policy: TokenizerLike, folder: Path) -> None:
    """Raise ModelError unless ids mean the same to both, where ids and not texts are passed on: a value model that begins from
    a reward model reads the policy's own ids."""
    if reward.vocab_size != policy.vocab_size or dict(reward.special_ids) != dict(policy.special_ids):
        differing = f"{reward.vocab_size} ids, and the policy's {policy.vocab_size}"
    else:
        ours, theirs = _spelled(reward), _spelled(policy)
        number = next((number for number, text in ours.items() if theirs.get(number) != text), None)
        if number is None:
            return
        differing = f"{ours[number]!r} at id {number}, and the policy's {theirs.get(number)!r}"
    raise ModelError(
        f"the reward model in {folder} reads another vocabulary than the policy (its tokenizer has {differing}), and here ids "
        "are passed from one to the other; it can score texts all the same, but begin the value model from the policy"
    )


def _spelled(tokenizer: TokenizerLike) -> dict[int, bytes]:
    """What each id that is text stands for."""
    others = {*tokenizer.special_ids.values(), *tokenizer.unused_ids}
    return {number: tokenizer.id_bytes(number) for number in range(tokenizer.vocab_size) if number not in others}
