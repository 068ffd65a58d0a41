"""What the stages that do not train will take: sizes counted from the recipe, and rates measured once (`docs/log.md`).

The rates are those of one core of a 2020 desktop processor; a forecast, not a promise.
"""

from collections.abc import Iterator, Sequence

from dunwu.build.exam import exam_questions
from dunwu.build.inputs import folders, source_files
from dunwu.core.devices import available_cores
from dunwu.core.recipe import (
    AnyPreferenceSource,
    CorpusSource,
    PreferenceWorldSource,
    PythonDocsSource,
    Recipe,
    SftFileSource,
    SftSource,
    SftSumsSource,
    WorldSource,
)
from dunwu.core.records import Example, Message
from dunwu.corpus.instructions import read_instructions
from dunwu.corpus.pairs import PreferenceReader
from dunwu.corpus.readers import SourceFile
from dunwu.corpus.source_mix import per_pass
from dunwu.corpus.stepwise import StepReader
from dunwu.corpus.sums import sums_examples
from dunwu.corpus.world import world_documents, world_examples

START_S = 1.0
CORPUS_BYTES_PER_S = {"near": 1.5e6, "exact": 5e6, "none": 6e6}  # a core
TOKENIZER_BYTES_PER_S = 4e6  # of text sampled to train a vocabulary
EXTEND_BYTES_PER_S = 1e6  # of text from which tokens are added to a base's vocabulary
EXTEND_BYTES = 16_000_000  # of text read for that, at most: it takes about 100 bytes of memory a byte
ENCODE_BYTES_PER_S = 6e6
TEXT_SHARE = {".html": 0.3, ".htm": 0.3, ".pdf": 0.05, ".docx": 0.3, ".epub": 2.0, ".ipynb": 0.4, ".parquet": 2.0}
UNPACKED_RATIO = 2.8
BASELINE_BYTES_PER_S = 0.6e6  # of training text given to xz and the n-grams
BASELINE_BYTES_HELD = 42  # a byte of that text
BASELINE_MAX_BYTES = 24e6
EXAM_ANSWER_TOKENS = 40
CARD_ANSWERS = 224
REPORT_S = 3.0
WORLD_PAIRS = 300  # of the small world, made to count their bytes
HELD_OUT_TOKENS = 20_000  # of the conversations that tuning without a corpus holds out


def text_bytes(recipe: Recipe) -> dict[str, int]:
    """Bytes of text that the corpus will hold, by language; folders, whose languages are not known yet, under ""."""
    return source_bytes(recipe.corpus.sources)


def source_bytes(sources: Sequence[CorpusSource]) -> dict[str, int]:
    """Bytes of text that documents of these sources will hold, by language."""
    sizes: dict[str, int] = {}
    for _, source in folders(sources):
        sizes[""] = sizes.get("", 0) + sum(_text_bytes(file) for file in source_files(source))
    for source in sources:
        if isinstance(source, PythonDocsSource):
            sizes["en"] = sizes.get("en", 0) + source.max_bytes
        elif isinstance(source, WorldSource):
            for document in world_documents(source):
                sizes[document.language] = sizes.get(document.language, 0) + len(document.text.encode("utf-8"))
    return sizes


def _text_bytes(file: SourceFile) -> int:
    try:
        size = file.path.stat().st_size
    except OSError:
        return 0
    return int(size * TEXT_SHARE.get(file.extension, 1.0) * (UNPACKED_RATIO if file.compression else 1.0))


def corpus_seconds(recipe: Recipe, size: int) -> float:
    """Reading, cleaning and splitting `size` bytes of text."""
    workers = available_cores() if recipe.corpus.workers == "auto" else recipe.corpus.workers
    return START_S + size / (CORPUS_BYTES_PER_S[recipe.corpus.dedup] * workers)


def tokenizer_seconds(recipe: Recipe, train_bytes: int, replay_bytes: int = 0) -> float:
    """Learning a vocabulary, or adding to the base's, and encoding the corpus and the text to replay."""
    sampled = min(train_bytes, recipe.tokenizer.train_bytes)
    learning_s = sampled / TOKENIZER_BYTES_PER_S
    if recipe.base:
        learning_s = min(sampled, EXTEND_BYTES) / EXTEND_BYTES_PER_S if recipe.tokenizer.extend_by else 0.0
    return START_S + learning_s + (train_bytes + replay_bytes) / ENCODE_BYTES_PER_S


def sft_examples(source: SftSource) -> Iterator[Example]:
    """The conversations of one source."""
    match source:
        case SftFileSource():
            return read_instructions(source)
        case SftSumsSource():
            return sums_examples(source)
        case _:
            return world_examples(source)


def tuning_messages(recipe: Recipe) -> Iterator[Sequence[Message]]:
    """What is said in each conversation and each preference, in order."""
    for source in recipe.sft.sources:
        yield from (example.messages for example in sft_examples(source))
    yield from _preference_messages(recipe.prefer.sources)
    yield from _judged_messages(recipe)


def _preference_messages(
    sources: Sequence[AnyPreferenceSource], *, key: str = "prefer", graded: bool = False
) -> Iterator[Sequence[Message]]:
    for source in sources:
        for one in PreferenceReader(source, key=key, graded=graded):
            yield (*one.prompt, *(one.chosen or ()), *(one.rejected or ()))


def _judged_messages(recipe: Recipe) -> Iterator[Sequence[Message]]:
    if recipe.reward.objective.method == "pairs":
        yield from _preference_messages(recipe.reward.sources, key="reward", graded=True)
        return
    for source in recipe.reward.sources:
        for one in StepReader(source, key="reward"):
            yield (*one.prompt, *(Message(role="assistant", content=step) for step in one.steps))


def prefer_bytes(recipe: Recipe) -> int:
    """Bytes of one pass over the preferences, prompts read once."""
    return sum(_source_bytes(source) for source in recipe.prefer.sources)


def reward_bytes(recipe: Recipe) -> int:
    """Bytes of one pass over what a reward model learns from, prompts read once."""
    if recipe.reward.objective.method == "pairs":
        return sum(_source_bytes(source, key="reward", graded=True) for source in recipe.reward.sources)
    return _bytes(_judged_messages(recipe))


def _source_bytes(source: AnyPreferenceSource, *, key: str = "prefer", graded: bool = False) -> int:
    """Bytes of the preferences of a source; those of the small world are alike enough to be counted by a few."""
    if not isinstance(source, PreferenceWorldSource):
        return _bytes(_preference_messages([source], key=key, graded=graded))
    few = source.model_copy(update={"pairs": min(source.pairs, WORLD_PAIRS)})
    return _bytes(_preference_messages([few])) * source.pairs // few.pairs


def _bytes(conversations: Iterator[Sequence[Message]]) -> int:
    return sum(len(message.content.encode("utf-8")) for messages in conversations for message in messages)


def sft_bytes(recipe: Recipe) -> int:
    """Bytes of one pass over the conversations, as often as the mix of sources takes them."""
    sources = recipe.sft.sources
    sizes = [[_example_bytes(example) for example in sft_examples(source)] for source in sources]
    counts = per_pass(
        [max(1, len(size)) for size in sizes],
        weights=[source.weight for source in sources],
        caps=[source.cap for source in sources],
        temperature=recipe.sft.temperature,
    )
    return int(sum(sum(size) * count / max(1, len(size)) for size, count in zip(sizes, counts, strict=True)))


def _example_bytes(example: Example) -> int:
    called = sum(len(call.name) + len(call.arguments) for message in example.messages for call in message.tool_calls)
    return called + sum(len(message.content.encode("utf-8")) for message in example.messages)


def baseline_bytes(recipe: Recipe, train_bytes: int) -> int:
    """The most that the baselines hold in memory."""
    return int(min(train_bytes, BASELINE_MAX_BYTES) * BASELINE_BYTES_HELD) if recipe.evaluate.baselines else 0


def evaluate_seconds(
    recipe: Recipe, *, train_bytes: int, heldout_bytes: int, token_s: float, bytes_per_token: float
) -> float:
    """Scoring held-out text twice over (windows overlap by half), the exam by a token at a time, baselines, samples.

    `token_s`: seconds of training a token of this model; a forward pass is a third of that.
    """
    models = 1 + bool(recipe.sft.sources) + bool(recipe.prefer.sources) + bool(recipe.rl.sources) + bool(recipe.base)
    scored = min(heldout_bytes, recipe.evaluate.heldout_bytes)
    texts = 2 if recipe.replay.sources else 1
    held_out = 2 * texts * scored / bytes_per_token * token_s / 3
    exam = len(exam_questions(recipe, recipe.evaluate.exam_questions)) * EXAM_ANSWER_TOKENS * token_s
    samples = recipe.evaluate.samples * 120 * 4 * token_s
    baselines = (
        (min(train_bytes, BASELINE_MAX_BYTES) + scored) / BASELINE_BYTES_PER_S if recipe.evaluate.baselines else 0.0
    )
    return START_S + models * (held_out + exam + samples + _card_seconds(recipe, token_s)) + baselines


def tuned_seconds(recipe: Recipe, *, token_s: float) -> float:
    """Scoring the conversations that were held out and answering some, by the base and by what was made of it."""
    held_out = HELD_OUT_TOKENS * token_s / 2
    samples = recipe.evaluate.samples * 120 * 4 * token_s
    return START_S + 2 * (held_out + samples + _card_seconds(recipe, token_s))


def _card_seconds(recipe: Recipe, token_s: float) -> float:
    """Of the answers of one model for the alignment card."""
    return CARD_ANSWERS * EXAM_ANSWER_TOKENS * token_s if recipe.prefer.sources or recipe.rl.sources else 0.0
