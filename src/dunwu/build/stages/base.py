"""The model to go on from, looked at once: shape, size, vocabulary, where it comes from. It stays where it lies.

Facts: `name`, `revision` (of a hub's model), `model`, `parameters`, `vocab_size`, `context_length`, `grown_from`,
`instruction_tuned`, `system_prompt`, `chat_fault` (why it cannot be fine-tuned, or None), and `licence`, whose files are copied.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dunwu.build.base import (
    LICENCE_FILES,
    base_folder,
    base_inputs,
    base_name,
    chat_fault,
    grown_from,
    hub_revision,
    require_chat,
    require_same_shape,
    tuned_as,
)
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.core.files import disk_errors, write_json
from dunwu.core.recipe import Recipe
from dunwu.core.units import format_count
from dunwu.model.count import parameters
from dunwu.model.folder import file_of
from dunwu.model.hub import load_config, require_vocabulary
from dunwu.model.inspect import inspect_model
from dunwu.tokenizer.load import load_tokenizer

SECONDS = 2.0


def _forecast(outlook: Outlook) -> Forecast:
    facts = _facts(outlook.recipe, base_folder(outlook.recipe, weights=False))
    return Forecast(
        predicted=Figures(seconds=SECONDS, parameters=facts["parameters"]),
        facts=facts,
        note=f"base: {facts['name']}, {facts['model']['architecture']} of {format_count(facts['parameters'])} parameters",
    )


def _run(work: Work) -> Outcome:
    folder = base_folder(work.recipe)
    facts = {**_facts(work.recipe, folder), "licence": inspect_model(folder).licence}
    with disk_errors(work.folder):
        for name in (file.name for pattern in LICENCE_FILES for file in folder.glob(pattern) if file.is_file()):
            shutil.copyfile(file_of(folder, name), work.folder / name)
    write_json(work.folder / "base.json", facts)
    return Outcome(facts=facts, actual=Figures(parameters=facts["parameters"]))


def _facts(recipe: Recipe, folder: Path) -> dict[str, Any]:
    config = load_config(folder)
    require_same_shape(recipe.model, config)
    tokenizer = load_tokenizer(folder)
    require_vocabulary(config, tokenizer.vocab_size, set(tokenizer.special_ids.values()), folder)
    fault = chat_fault(tokenizer, folder)
    require_chat(recipe, fault)
    return {
        "name": base_name(recipe),
        "revision": hub_revision(recipe, folder),
        "model": asdict(config),
        "parameters": parameters(config),
        "vocab_size": tokenizer.vocab_size,
        "context_length": config.max_position_embeddings,
        "grown_from": grown_from(folder),
        # As `dunwu import` decides: a model of others that has a chat template was tuned to it.
        "instruction_tuned": tokenizer.chat_template is not None,
        "system_prompt": "",
        **tuned_as(folder),
        "chat_fault": fault,
    }


BASE = Stage(
    name="base",
    title="Looking at the base model",
    version="2",
    needs=(),
    settings=lambda recipe: {"model": {k: v for k, v in recipe.model.model_dump(mode="json").items() if v != "auto"}},
    inputs=base_inputs,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: bool(recipe.base),
)
