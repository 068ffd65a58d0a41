"""A ladder of small trainings on the corpus of a recipe: the stages of the build as far as it needs them, then rung by rung.

HOME/ladder/rung-HASH12/result.json is written last: that rung is done. One that was killed goes on from its own checkpoint, and a
finished one serves every later ladder that has it too.
"""

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dunwu.build.budget import (
    MICRO_BATCH_TOKENS,
    TOKENS_A_PARAMETER,
    batch_rows,
    choose_context_length,
    decoder_config,
)
from dunwu.build.graph import Outlook, Work, lay_out
from dunwu.build.home import Home, StageRecord
from dunwu.build.learn import learn, peak_rates
from dunwu.build.lock import locked
from dunwu.build.meters import resident_bytes
from dunwu.build.registry import STAGES
from dunwu.build.run import run_step, stoppable
from dunwu.build.stages.tokenizer import SHARDS
from dunwu.build.training import exact_speed, pretrain_choice
from dunwu.core.devices import pick_device, prepare_cpu
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.files import disk_errors, read_json, write_json, write_text
from dunwu.core.lineage import HASH_LENGTH, stable_hash
from dunwu.core.load import dump_recipe
from dunwu.core.progress import SilentProgress, TerminalProgress
from dunwu.core.recipe import ModelSection, Recipe
from dunwu.core.units import format_count, format_duration
from dunwu.corpus.shards import TokenShards
from dunwu.corpus.store import read_documents
from dunwu.corpus.stream import PretrainStream
from dunwu.evaluate.heldout import ChosenText, choose_text
from dunwu.evaluate.likelihood import score_text
from dunwu.lab.ladder.plan import Family, Ladder, Rung, RungResult, Shape, Target, plan_ladder
from dunwu.lab.ladder.record import Identity
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters, train_flops_per_token, training_bytes
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.tokenizer.bpe import Tokenizer
from dunwu.train.loop import TrainResult
from dunwu.train.optim import default_lrs

VERSION = "1"  # of a rung: another where the same settings would give another loss
PROBED = (128, 4)  # the shape whose speed turns a budget of time into FLOPs, before there are rungs
KEPT = ("architecture", "tie_word_embeddings", "rope_theta", "rms_norm_eps")  # of the recipe, at every size
GROUND = ("corpus", "tokenizer")
RESULT = "result.json"
# Hidden size and layers; those of the budget, and smaller and finer ones below.
SHAPES = (
    (32, 2), (48, 2), (64, 3), (80, 3), (96, 3), (112, 4), (128, 4), (160, 5), (192, 6), (256, 6), (320, 7), (384, 8), (448, 9),
    (512, 10), (640, 11), (768, 12), (1024, 16), (1280, 20), (1536, 24), (2048, 24),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be forecast, as far as it is said: `flops` of training (a budget), or size and tokens; nothing: what the recipe
    would train. `seconds`: a budget in time."""

    flops: float | None = None
    seconds: float | None = None
    size: float | None = None
    tokens: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """The corpus and its tokens, ready."""

    recipe: Recipe
    home: Home
    records: Mapping[str, StageRecord]
    tokenizer: Tokenizer
    text: ChosenText
    text_tokens: int

    def folder(self, stage: str) -> Path:
        """Of a stage."""
        return self.home.folder_of(self.records[stage])


def climb(
    recipe: Recipe, home: Home, wish: Wish, progress: TerminalProgress, *, largest: float, levels: int
) -> tuple[Ladder, Identity]:
    """Train what is not trained yet of the ladder below the wish. The caller holds the home's lock: see `climbing`.

    Raises RecipeError where nothing can be forecast, DataError where text is too little, Interrupted when asked to stop.
    """
    _require_corpus(recipe)
    prepare_cpu()
    ground = _ground(recipe, home, progress)
    target, config, context = _target(ground, wish)
    family = family_of(recipe.model, ground.tokenizer.vocab_size, context)
    fresh = ground.records["tokenizer"].facts["train_tokens"]
    rungs = plan_ladder(
        target,
        family,
        context_length=context,
        corpus_tokens=fresh,
        vocab_size=ground.tokenizer.vocab_size,
        seed=recipe.seed,
        largest=largest,
        levels=levels,
    )
    progress.note(_in_words(rungs, target))
    results = _train(ground, rungs, context, config, progress)
    ladder = Ladder(
        target=target,
        open_size=wish.size is None and wish.tokens is None and (wish.flops or wish.seconds) is not None,
        family=family,
        rungs=results,
        context_length=context,
        fresh_tokens=fresh,
        bytes_per_token=ground.text.bytes / ground.text_tokens,
        vocab_size=ground.tokenizer.vocab_size,
    )
    return ladder, identity_of(recipe, ground.records)


def train_each(
    recipe: Recipe,
    home: Home,
    rungs: Sequence[Rung],
    progress: TerminalProgress,
    *,
    context_length: int,
    lr_scale: float = 1.0,
) -> tuple[RungResult, ...]:
    """Train models as rungs are trained, whatever their size: what a forecast is held against. `lr_scale`: of all peak rates."""
    _require_corpus(recipe)
    prepare_cpu()
    ground = _ground(recipe, home, progress)
    widest = max(rungs, key=lambda rung: rung.shape.parameters).shape
    config = _config(recipe.model, widest, ground.tokenizer.vocab_size, context_length)
    return _train(ground, rungs, context_length, config, progress, lr_scale)


@contextlib.contextmanager
def climbing(home: Home) -> Generator[None]:
    """The lock of a home, with Ctrl-C and SIGTERM told in words."""
    home.make()
    with locked(home.lock_file), stoppable():
        yield


def identity_of(recipe: Recipe, records: Mapping[str, StageRecord]) -> Identity:
    """What a forecast of this recipe is of."""
    return Identity(
        recipe=stable_hash(recipe.model_dump(mode="json")),
        corpus=records["corpus"].hash,
        tokenizer=records["tokenizer"].hash,
        heldout_bytes=recipe.evaluate.heldout_bytes,
    )


def memory_bytes(recipe: Recipe, ladder: Ladder, size: float) -> int:
    """What training the shape nearest to a size will hold, the process itself included."""
    shape = ladder.family.nearest(size)
    config = _config(recipe.model, shape, ladder.vocab_size, ladder.context_length)
    rows = _micro_rows(recipe, ladder.context_length)
    return resident_bytes() + training_bytes(config, rows, ladder.context_length, recipe.pretrain.optimizer)


def family_of(section: ModelSection, vocab_size: int, context_length: int) -> Family:
    """Shapes of all sizes of the recipe's architecture, whatever size it fixes itself."""
    shapes: list[Shape] = []
    for hidden, layers in SHAPES:
        shape = Shape(hidden_size=hidden, layers=layers, parameters=1, flops_per_token=1.0)
        config = _config(section, shape, vocab_size, context_length)
        cost = train_flops_per_token(config, context_length)
        shapes.append(dataclasses.replace(shape, parameters=parameters(config), flops_per_token=cost))
    return Family(shapes)


def _config(section: ModelSection, shape: Shape, vocab_size: int, context_length: int) -> DecoderConfig:
    kept = {name: getattr(section, name) for name in KEPT}
    return decoder_config(
        ModelSection(**kept), shape.hidden_size, shape.layers, vocab_size=vocab_size, context_length=context_length
    )


def transferred_rates(recipe: Recipe, config: DecoderConfig, target: DecoderConfig) -> tuple[float, float]:
    """Peak learning rates of Muon and AdamW at this width: the house's own, or those that the recipe gives for its target, moved as
    the house's move with width."""
    own, there = default_lrs(config, recipe.pretrain.optimizer), default_lrs(target, recipe.pretrain.optimizer)
    lr_muon, lr_adamw = peak_rates(recipe.pretrain, target)
    return (lr_muon * own[0] / there[0] if there[0] else lr_muon), lr_adamw * own[1] / there[1]


# The ground


def _require_corpus(recipe: Recipe) -> None:
    if recipe.base:
        raise RecipeError(
            f"base={recipe.base}: a ladder is grown from random weights, and says nothing of going on from a base; leave base out"
        )
    if not recipe.corpus.sources:
        raise RecipeError(
            "the recipe has no corpus.sources: there is no text to forecast on; name a folder of documents"
        )
    if recipe.pretrain.freeze:
        raise RecipeError("pretrain.freeze leaves parameters of a new model at random; a ladder of those says nothing")


def _ground(recipe: Recipe, home: Home, progress: TerminalProgress) -> _Ground:
    """The stages that a build begins with: done there, they are done here, and the other way round."""
    if not home.recipe_file.is_file():
        write_text(home.recipe_file, dump_recipe(recipe))
    records: dict[str, StageRecord] = {}
    for step in lay_out([stage for stage in STAGES if stage.name in GROUND], recipe, home):
        facts = {name: record.facts for name, record in records.items()}
        outlook = Outlook(recipe=recipe, facts=facts, spent_s=0.0)
        records[step.stage.name] = step.record or run_step(step, outlook, home, progress)
    folder = home.folder_of(records["tokenizer"])
    tokenizer = Tokenizer.load(folder)
    documents = read_documents(home.folder_of(records["corpus"]), "heldout")
    text = choose_text(documents, max_bytes=recipe.evaluate.heldout_bytes)
    return _Ground(
        recipe=recipe,
        home=home,
        records=records,
        tokenizer=tokenizer,
        text=text,
        text_tokens=sum(len(ids) for ids in tokenizer.encode_batch(text.texts)),
    )


def _target(ground: _Ground, wish: Wish) -> tuple[Target, DecoderConfig, int]:
    """The training to be forecast, its shape, and its context. Of a budget alone: at the house's own guess of a good size."""
    recipe = ground.recipe
    if wish == Wish():
        facts = {name: record.facts for name, record in ground.records.items()}
        choice = pretrain_choice(Outlook(recipe=recipe, facts=facts, spent_s=0.0))
        cost = train_flops_per_token(choice.config, choice.context_length)
        target = Target(
            size=parameters(choice.config),
            tokens=choice.tokens,
            flops=choice.tokens * cost,
            batch_tokens=choice.batch_rows * choice.context_length,
        )
        return target, choice.config, choice.context_length
    context = _context(recipe, wish)
    family = family_of(recipe.model, ground.tokenizer.vocab_size, context)
    if wish.seconds is not None:
        wish = dataclasses.replace(wish, flops=wish.seconds * flops_a_second(recipe, ground.tokenizer.vocab_size, wish))
    size, tokens = _size_and_tokens(family, wish)
    config = _config(recipe.model, family.nearest(size), ground.tokenizer.vocab_size, context)
    rows = batch_rows(recipe.pretrain, tokens, context)
    target = Target(size=size, tokens=tokens, flops=tokens * family.flops_per_token(size), batch_tokens=rows * context)
    return target, config, context


def flops_a_second(recipe: Recipe, vocab_size: int, wish: Wish) -> float:
    """What this machine trains with, from a few real steps of a model of about the size that so much time suits."""
    shape = decoder_config(ModelSection(), *PROBED, vocab_size=vocab_size, context_length=_context(recipe, wish))
    rows = _micro_rows(recipe, shape.max_position_embeddings)
    speed = exact_speed(recipe, shape, shape.max_position_embeddings, rows)
    batch_tokens = rows * shape.max_position_embeddings
    return (
        batch_tokens
        * train_flops_per_token(shape, shape.max_position_embeddings)
        / speed.seconds(batch_tokens, batch_tokens)
    )


def _context(recipe: Recipe, wish: Wish) -> int:
    return choose_context_length(recipe.model, wish.size or 1e6)


def _size_and_tokens(family: Family, wish: Wish) -> tuple[float, float]:
    if wish.size is not None and wish.tokens is not None:
        return wish.size, wish.tokens
    assert wish.flops is not None  # what is asked was checked where it was read
    if wish.size is not None:
        return wish.size, wish.flops / family.flops_per_token(wish.size)
    size = family.size_for(wish.flops, TOKENS_A_PARAMETER)
    return size, wish.flops / family.flops_per_token(size)


# The rungs


def _in_words(rungs: Sequence[Rung], target: Target) -> str:
    total = sum(rung.flops for rung in rungs)
    most = max(rung.flops for rung in rungs)
    return (
        f"ladder: {len(rungs)} trainings of {format_count(min(rung.shape.parameters for rung in rungs))} to "
        f"{format_count(max(rung.shape.parameters for rung in rungs))} parameters, {total:.2g} FLOPs in all, {total / target.flops:.1%} of "
        f"the target's {target.flops:.2g}; the largest takes 1/{target.flops / most:.0f} of it"
    )


def _train(
    ground: _Ground,
    rungs: Sequence[Rung],
    context: int,
    target: DecoderConfig,
    progress: TerminalProgress,
    lr_scale: float = 1.0,
) -> tuple[RungResult, ...]:
    """One after the other, those that are not done."""
    results: list[RungResult] = []
    for at, rung in enumerate(rungs, 1):
        config = _rung_config(ground, rung, context)
        lr_muon, lr_adamw = transferred_rates(ground.recipe, config, target)
        rates = lr_muon * lr_scale, lr_adamw * lr_scale
        results.append(_run_rung(ground, rung, config, rates, progress, f"{at} of {len(rungs)}"))
    return tuple(results)


def _run_rung(
    ground: _Ground,
    rung: Rung,
    config: DecoderConfig,
    rates: tuple[float, float],
    progress: TerminalProgress,
    place: str,
) -> RungResult:
    """Train and score it, unless that was done."""
    recipe = ground.recipe
    context, (lr_muon, lr_adamw) = config.max_position_embeddings, rates
    identity = {
        "version": VERSION,
        "tokenizer": ground.records["tokenizer"].hash,
        "corpus": ground.records["corpus"].hash,
        "heldout_bytes": recipe.evaluate.heldout_bytes,
        "model": asdict(config),
        "context_length": context,
        "tokens": rung.tokens,
        "batch_rows": rung.batch_rows,
        "lrs": [lr_muon, lr_adamw],
        "pretrain": recipe.pretrain.model_dump(mode="json", include=_SHAPES_THE_RUN),
        "seed": rung.seed,
    }
    key = stable_hash(identity)
    folder = ground.home.folder / "ladder" / f"rung-{key[:HASH_LENGTH]}"
    if (folder / RESULT).is_file():
        return _result(folder / RESULT)
    progress.start(f"Rung {place}")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    resolved = {
        "lr_muon": lr_muon,
        "lr_adamw": lr_adamw,
        "batch_rows": rung.batch_rows,
        "micro_batch_rows": min(rung.batch_rows, _micro_rows(recipe, context)),
    }
    seeded = recipe.model_copy(update={"seed": rung.seed})
    work = Work(
        recipe=seeded, home=ground.home, folder=folder, needs={}, facts={}, resolved=resolved, progress=progress
    )
    model = new_decoder(config, seed=rung.seed, device=pick_device())
    stream = PretrainStream(
        TokenShards.open(ground.folder("tokenizer") / SHARDS, verify=False), context_length=context, seed=rung.seed
    )
    trained = learn(work, model, stream, recipe.pretrain, total_tokens=rung.tokens)
    result = _scored(ground, rung, model, trained, context, key)
    write_json(folder / RESULT, {"identity": identity, "result": asdict(result)})
    _tidy(folder)
    progress.note(
        f"rung {place}: {format_count(result.parameters)} parameters, {format_count(result.tokens)} tokens, "
        f"{result.bits_per_byte:.4f} bits per byte, {format_duration(result.seconds)}"
    )
    return result


def _result(file: Path) -> RungResult:
    try:
        return RungResult(**read_json(file)["result"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no rung of this version of dunwu ({error}); remove {file.parent} to train it again"
        ) from error


_SHAPES_THE_RUN = {
    "optimizer", "weight_decay", "betas", "schedule", "warmup_fraction", "decay_fraction", "final_lr_fraction",
    "batch_warmup_fraction", "grad_clip", "dtype",
}  # fmt: skip


def _rung_config(ground: _Ground, rung: Rung, context: int) -> DecoderConfig:
    tokenizer = ground.tokenizer
    config = _config(ground.recipe.model, rung.shape, tokenizer.vocab_size, context)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_id)
    return dataclasses.replace(config, **ends)


def _scored(ground: _Ground, rung: Rung, model: Decoder, trained: TrainResult, context: int, key: str) -> RungResult:
    bits = score_text(
        model, ground.tokenizer, ground.text, context_length=context, progress=SilentProgress(),
        start_ids=ground.tokenizer.start_ids,
    ).score.value  # fmt: skip
    loss = bits * math.log(2) * ground.text.bytes / ground.text_tokens
    if not math.isfinite(loss):
        raise DataError(
            f"a rung of {format_count(rung.shape.parameters)} parameters diverged (its held-out loss is {loss}); "
            "lower pretrain.lr_muon and pretrain.lr_adamw, or leave them to the width"
        )
    return RungResult(
        hash=key,
        hidden_size=rung.shape.hidden_size,
        layers=rung.shape.layers,
        parameters=rung.shape.parameters,
        tokens=trained.tokens,
        batch_tokens=rung.batch_rows * context,
        steps=trained.steps,
        seed=rung.seed,
        flops=trained.tokens * rung.shape.flops_per_token,
        loss=loss,
        bits_per_byte=bits,
        seconds=trained.seconds,
        peak_bytes=trained.peak_bytes,
    )


def _tidy(folder: Path) -> None:
    """Keep the figures of a finished rung, not its weights."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for file in folder.glob("*.safetensors"):
        file.unlink(missing_ok=True)


def _micro_rows(recipe: Recipe, context: int) -> int:
    section = recipe.pretrain
    if section.micro_batch_rows != "auto":
        return section.micro_batch_rows
    return max(1, MICRO_BATCH_TOKENS[pick_device().type] // context)
