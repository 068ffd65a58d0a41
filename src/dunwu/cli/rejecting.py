"""`dunwu align --method rejection`: answers are drawn and sifted, and the rest is `dunwu tune`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dunwu.align.baselines.rejection import Sifted, sift
from dunwu.align.rewards import make_reward
from dunwu.cli import talking, tuning
from dunwu.cli.target import BUILDS
from dunwu.core.errors import RecipeError
from dunwu.core.files import sha256_file
from dunwu.core.overrides import looks_like_override
from dunwu.core.progress import TerminalProgress
from dunwu.core.recipe import PromptFileSource, PromptSource, PromptSumsSource, PromptWorldSource
from dunwu.core.records import Message
from dunwu.core.rejection import PREFIX, rejection_spec
from dunwu.core.rewards import RewardSpec, reward_specs
from dunwu.corpus.prompts import Prompt, load_prompt_sets

ANSWERS = "-answers"  # what was drawn lies beside the build's home, which holds nothing but the build
GENERATED = {"world": PromptWorldSource, "sums": PromptSumsSource}


def words(
    model: str, data: Sequence[str], *, delta: str, out: Path | None, rewards: Sequence[str], plan_only: bool
) -> list[str]:
    """Draw and sift, and what `dunwu build` then learns. Raises RecipeError for what is missing."""
    if not rewards:
        raise RecipeError("rejection needs to know how answers are judged: give --reward KIND, such as --reward math")
    overrides = [word for word in data if looks_like_override(word) and not Path(word).exists()]
    files = [word for word in data if word not in overrides]
    if not files:
        raise RecipeError(
            "there is nothing to answer; give a file of prompts: dunwu align MODEL FILE --method rejection --reward KIND"
        )
    spec = rejection_spec([word for word in overrides if word.startswith(PREFIX)])
    specs = reward_specs(rewards)
    place = out or BUILDS / f"{Path(model).name}-rejection"
    kept = place.with_name(place.name + ANSWERS) / "kept.jsonl"
    if plan_only and not kept.is_file():
        raise RecipeError(
            f"--plan can say nothing before answers are drawn: {kept} is not there; run it without --plan"
        )
    if not plan_only:
        folder = talking.model_folder(model)
        partner = talking.load(model)
        prompts = [_with_system(one, partner.system_prompt) for one in _prompts(files)]
        origin = {"model": _weights(folder), "rewards": [_named(one) for one in specs]}
        with TerminalProgress() as progress:
            sifted = sift(partner, prompts, make_reward(specs), spec, kept.parent, origin=origin, progress=progress)
        print(_told(sifted))
    rest = [word for word in overrides if not word.startswith(PREFIX)]
    return tuning.words(model, [str(kept), *rest], method=delta, out=place)


def _prompts(files: Sequence[str]) -> list[Prompt]:
    """What is learned from: a part of each source is kept out, as reinforcement learning does, so that both compare."""
    sources: list[PromptSource] = [
        GENERATED[file]() if file in GENERATED and not Path(file).exists() else PromptFileSource(path=file)
        for file in files
    ]
    return list(load_prompt_sets(sources, exam_questions=100).learned)


def _with_system(prompt: Prompt, system: str) -> Prompt:
    if not system or prompt.messages[0].role == "system":
        return prompt
    return replace(prompt, messages=(Message(role="system", content=system), *prompt.messages))


def _weights(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors"))}


def _named(spec: RewardSpec) -> dict[str, object]:
    """A reward with the content of what it names: another function under the same name is another reward."""
    values = spec.model_dump(mode="json")
    for key in ("path", "file"):
        file = Path(str(values.get(key) or "").rpartition(":")[0] or str(values.get(key) or ""))
        if file.is_file():
            values[f"{key}_sha256"] = sha256_file(file)
        elif file.is_dir() and values.get(key):
            values[f"{key}_sha256"] = _weights(file)
    return values


def _told(sifted: Sifted) -> str:
    return (
        f"{sifted.kept:,} of {sifted.drawn:,} answers to {sifted.prompts:,} prompts kept in {sifted.file} (mean reward "
        f"{sifted.mean:.4g}; the answers to {sifted.alike:,} prompts scored alike)"
    )
