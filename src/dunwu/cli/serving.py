"""`dunwu serve`."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dunwu.build.base import FACTS_FILE
from dunwu.build.home import TRAINING_STAGES, Home
from dunwu.cli.serving_options import Listening, Writing
from dunwu.cli.talking import model_folder
from dunwu.core.devices import keep_few_kernels, prepare_cpu
from dunwu.core.errors import ModelError, RecipeError
from dunwu.core.files import read_json
from dunwu.core.load import RECIPE_SUFFIXES
from dunwu.core.units import parse_bytes, parse_duration
from dunwu.delta.library import Library, default_library
from dunwu.model.fetch import is_hub_name
from dunwu.serve.deltas import EveryDelta, chosen
from dunwu.serve.gateway import RoutedShelf
from dunwu.serve.gateway_config import GatewayConfig, load_gateway
from dunwu.serve.models import EngineOptions, ServedModel, Shelf, load_served_model
from dunwu.serve.run import serve as run_server
from dunwu.serve.settings import ServeSettings
from dunwu.serve.source import ModelSource
from dunwu.serve.ways import ChainWay, StrategyShelf, Way, chain_way, way

KEY_VARIABLE = "DUNWU_API_KEY"


def serve(
    models: Sequence[str],
    listening: Listening,
    writing: Writing,
    *,
    delta: Sequence[str] = (),
    deltas: str = "none",
    strategy: Sequence[str] = (),
    chain: Sequence[str] = (),
    allow_code: bool = False,
    registry: Path | None = None,
) -> None:
    """Serve models until a signal comes."""
    settings = ServeSettings(
        host=listening.host,
        port=listening.port,
        api_keys=listening.keys,
        api_key=os.environ.get(KEY_VARIABLE),
        max_body_bytes=parse_bytes(listening.max_body),
        allowed_hosts=listening.allow_host,
        allowed_origins=listening.allow_origin,
        requests_per_minute=listening.requests_per_minute,
        tokens_per_minute=listening.tokens_per_minute,
        max_concurrency_per_key=listening.concurrent_requests,
        max_waiting=listening.max_waiting,
        request_timeout_s=parse_duration(listening.request_timeout),
        drain_timeout_s=parse_duration(listening.drain_timeout),
        log_prompts=listening.log_prompts,
    )
    options = EngineOptions(
        weights=writing.weights,
        cache=writing.cache_kind,
        cache_bytes=parse_bytes(writing.cache),
        lookup=writing.lookup,
        draft=None if writing.draft is None else model_folder(writing.draft),
        context_length=writing.context_length,
        max_sequences=writing.max_sequences,
        max_waiting=listening.max_waiting,
    )
    over = Over(words=tuple(delta), every=deltas == "all", library=default_library(registry))
    chains = [chain_way(text, allow_code=allow_code) for text in chain]
    serve_models(models, settings, options, over, [*(way(text) for text in strategy), *chains])


@dataclass(frozen=True, kw_only=True)
class Over:
    """The deltas that are wanted over the models: those named, and with `every` all of the registry that go with one of them."""

    words: tuple[str, ...] = ()
    every: bool = False
    library: Library = field(default_factory=default_library)


def serve_models(
    models: Sequence[str],
    settings: ServeSettings,
    options: EngineOptions,
    over: Over | None = None,
    ways: Sequence[Way | ChainWay] = (),
) -> None:
    """Serve models until a signal comes. Raises RecipeError or ModelError."""
    if not models:
        raise RecipeError(
            "there is no model to serve; give a build's home (such as builds/NAME), a folder, owner/name, or a gateway's file"
        )
    shelf = _shelf(models, partial(load_served_model, options=options), over or Over(), ways)
    keep_few_kernels()
    prepare_cpu()
    run_server(shelf, settings)


def _shelf(
    models: Sequence[str], load: Callable[[ModelSource], ServedModel], over: Over, ways: Sequence[Way | ChainWay] = ()
) -> Shelf:
    files = [Path(word).expanduser() for word in models if Path(word).suffix.lower() in RECIPE_SUFFIXES]
    if not files:
        bases = [source for word in models for source in sources(word)]
        named = chosen(over.words, bases, over.library)
        deltas = EveryDelta(over.library, bases) if over.every else None
        found = [*bases, *named]
        return StrategyShelf(found, load, ways, deltas) if ways else Shelf(found, load, deltas)
    if len(models) > 1:
        raise RecipeError(f"{files[0]} is a gateway's file, which names all that is served; give it alone")
    if over.words or over.every:
        raise RecipeError(f"--delta and --deltas go with models; in {files[0]} give a partner its `delta: NAME`")
    if ways:
        kind = "chain" if isinstance(ways[0], ChainWay) else "strategy"
        raise RecipeError(f"--{kind} goes with models; in {files[0]} give a route its `{kind}: {ways[0].strategy}`")
    config = load_gateway(files[0])
    return RoutedShelf(config, _partner_sources(config, files[0].parent, over.library), load, folder=files[0].parent)


def _partner_sources(config: GatewayConfig, folder: Path, library: Library) -> list[ModelSource]:
    """The models of this machine, and the deltas over them; partners with one folder and deltas share a model."""
    local = {name: partner for name, partner in config.partners.items() if partner.url is None}
    plain = {
        name: dataclasses.replace(_partner_source(partner.model, folder), id=name, lazy=False)
        for name, partner in local.items()
    }
    found = [source for name, source in plain.items() if local[name].delta is None]
    for name, partner in local.items():
        if partner.delta is None:
            continue
        base = next((one for one in found if one.delta is None and one.folder == plain[name].folder), None)
        if base is None:
            base = dataclasses.replace(plain[name], id=f"{name} (base)")
            found.append(base)
        (delta,) = chosen([_beside(partner.delta, folder)], [base], library)
        found.append(dataclasses.replace(delta, id=name))
    return found


def _beside(word: str, folder: Path) -> str:
    """A path in a gateway's file starts at the file's folder."""
    beside = folder / Path(word).expanduser()
    return str(beside) if beside.exists() and Path(word).name != word else word


def _partner_source(model: str, folder: Path) -> ModelSource:
    """A path in a gateway's file starts at the file's folder."""
    beside = folder / Path(model).expanduser()
    return next(sources(str(beside) if beside.exists() else model))


def sources(word: str) -> Iterator[ModelSource]:
    """What a word of the command line offers: `path`, `owner/name` of a hub, or either after `NAME=`. A build's home offers its
    finished model, and those of its earlier stages beside it, as NAME:STAGE. Raises ModelError."""
    name, where = _split(word)
    home = Home(Path(where).expanduser())
    folder = model_folder(where)
    facts = _facts(folder)
    name = name or _name(where, folder, facts, is_home=home.exists())
    yield ModelSource(
        id=name,
        folder=folder,
        instruction_tuned=facts.get("instruction_tuned"),
        system_prompt=facts.get("system_prompt", ""),
        created=_made(folder),
    )
    if home.exists():
        yield from _stages(name, home)


def _stages(name: str, home: Home) -> Iterator[ModelSource]:
    """Of the stages that trained, all but the last, which is the finished model."""
    records = home.current()
    trained = [stage for stage in TRAINING_STAGES if stage in records]
    tuned = "base" in records and bool(records["base"].facts.get("instruction_tuned"))
    for stage in trained[:-1]:
        folder = home.folder_of(records[stage])
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            yield ModelSource(
                id=f"{name}:{stage}",
                folder=folder,
                stage=stage,
                instruction_tuned=tuned,
                lazy=True,
                created=_made(folder),
            )


def _split(word: str) -> tuple[str, str]:
    name, equals, where = word.partition("=")
    if not equals or Path(word).expanduser().exists():
        return "", word
    if not name or not where:
        raise RecipeError(f"{word!r} names no model; write NAME=FOLDER, or the folder alone")
    return name, where


def _name(where: str, folder: Path, facts: dict[str, Any], *, is_home: bool) -> str:
    if not Path(where).expanduser().exists() and is_hub_name(where):
        return where
    return str(facts.get("name") or (Path(where).expanduser().resolve() if is_home else folder.resolve()).name)


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / FACTS_FILE
    if not file.is_file():
        return {}
    facts = read_json(file)
    if not isinstance(facts, dict):
        raise ModelError(f"{file} must hold a JSON object; export the model again")
    return facts


def _made(folder: Path) -> int:
    return int((folder / "config.json").stat().st_mtime)
