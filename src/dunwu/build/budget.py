"""The one dial: from wall time and memory to vocabulary, shape, context, batch and tokens.

How much a model learns in a given time is weighed with a law of two terms, loss = A / N^a + B / D^b, over parameters N and
tokens D (Hoffmann et al., arXiv:2203.15556), where repeated text counts for less and less (Muennighoff et al.,
arXiv:2305.16264). The constants were fitted to small runs of this trainer; `docs/log.md` has them.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from dunwu.build.probe import TrainingSpeed
from dunwu.core.errors import ModelError, RecipeError
from dunwu.core.recipe import ModelSection, PretrainSection, TrainSection
from dunwu.core.units import format_bytes, format_duration
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters, train_flops_per_token, training_bytes

# hidden size, layers
SHAPES = (
    (64, 3),
    (96, 3),
    (128, 4),
    (160, 5),
    (192, 6),
    (256, 6),
    (320, 7),
    (384, 8),
    (448, 9),
    (512, 10),
    (640, 11),
    (768, 12),
    (1024, 16),
    (1280, 20),
    (1536, 24),
    (2048, 24),
)
PARAMETER_TERM = (74.0, 0.35)  # A, a
TOKEN_TERM = (220.0, 0.35)  # B, b
TOKENS_A_PARAMETER = (TOKEN_TERM[0] / PARAMETER_TERM[0]) ** (
    1 / PARAMETER_TERM[1]
)  # where the law wants them: about 22
REPEATS_FADE, EXCESS_FADE = 15.4, 5.3  # R*_D and R*_N of arXiv:2305.16264
NOT_WORTH_IT = 1.002  # a larger model must promise more than this share less loss
ANCHOR_ROWS = 8
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}
STEPS = 5000  # of a run: small models want many
LEAST_BATCH_TOKENS, MOST_BATCH_TOKENS = 2048, 2**19
HARDLY_FEWER = 0.8
_LEAST_BATCHES = 4
Speed = Callable[[DecoderConfig, int, int], TrainingSpeed]  # shape, context length, rows of a micro-batch


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model and how to train it, with what that is expected to take."""

    config: DecoderConfig
    context_length: int
    batch_rows: int
    micro_batch_rows: int
    tokens: int
    seconds: float
    speed: TrainingSpeed  # that of the prediction
    peak_bytes: int  # above what the process holds before the model is made


def expected_loss(parameter_count: float, tokens: float, corpus_tokens: float) -> float:
    """What the law says of `tokens` drawn from a corpus of `corpus_tokens`, nats a token above what cannot be learned.

    Repeats, and parameters beyond what the fresh tokens can fill, are worth less and less (arXiv:2305.16264, eq. 5 and 6).
    """
    fresh = min(tokens, corpus_tokens)
    filled = min(parameter_count, fresh / TOKENS_A_PARAMETER)
    tokens_worth = _worth(tokens, fresh, REPEATS_FADE)
    parameters_worth = _worth(parameter_count, filled, EXCESS_FADE)
    return PARAMETER_TERM[0] / parameters_worth ** PARAMETER_TERM[1] + TOKEN_TERM[0] / tokens_worth ** TOKEN_TERM[1]


def _worth(amount: float, full: float, fade: float) -> float:
    """`full` counts in full; each further `full` counts less, by a factor e after `fade` of them."""
    return full + full * fade * (1.0 - math.exp(-(amount / full - 1.0) / fade))


def decoder_config(
    section: ModelSection, hidden_size: int, layers: int, *, vocab_size: int, context_length: int
) -> DecoderConfig:
    """The shape of that width and depth; what the recipe fixes stays as it is. Raises ModelError if the recipe's numbers clash."""
    hidden = _or(section.hidden_size, hidden_size)
    fitting = 64 if hidden % 64 == 0 and hidden >= 128 else 32
    head_dim = _or(
        section.head_dim, fitting if section.num_attention_heads == "auto" else hidden // section.num_attention_heads
    )
    heads = _or(section.num_attention_heads, max(1, hidden // max(1, head_dim)))
    key_value_heads = _or(section.num_key_value_heads, heads // 2 if heads % 2 == 0 else heads)
    return DecoderConfig(
        architecture=section.architecture,
        qk_norm="head" if section.architecture == "qwen3" else "none",
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=_or(section.intermediate_size, round(hidden * 8 / 3 / 32) * 32),
        num_hidden_layers=_or(section.num_hidden_layers, layers),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=context_length,
        rope_theta=section.rope_theta,
        rms_norm_eps=section.rms_norm_eps,
        tie_word_embeddings=section.tie_word_embeddings,
    )


def _or(value: int | str, otherwise: int) -> int:
    return otherwise if isinstance(value, str) else value


def choose_vocab_size(bytes_by_language: dict[str, int], parameter_count: float) -> int:
    """A power of two that suits the model and the text: an embedding that neither dominates the model nor starves it.

    Chinese needs more, because its characters alone are thousands; and each entry should have about a kilobyte to be learned from.
    """
    text_bytes = max(1, sum(bytes_by_language.values()))
    chinese = sum(size for language, size in bytes_by_language.items() if language == "zh") / text_bytes
    by_model = 4096 * (parameter_count / 4e6) ** 0.5 * (1.0 + chinese)
    by_text = text_bytes / 1000 * (1.0 + chinese)
    return 2 ** max(10, min(16, round(math.log2(min(by_model, by_text)))))


def choose_context_length(section: ModelSection, parameter_count: float) -> int:
    """Longer for larger models, which make better use of it and pay relatively less for attention."""
    if section.context_length != "auto":
        return section.context_length
    for limit, length in ((1e7, 256), (4e7, 512), (2e8, 1024), (6e8, 2048)):
        if parameter_count < limit:
            return length
    return 4096


def batch_rows(section: TrainSection, tokens: float, context_length: int) -> int:
    """Rows of a batch: about five thousand steps a run (small models want many), within 2k and 512k tokens a batch."""
    wanted = section.batch_tokens
    if wanted == "auto":
        wanted = 2 ** round(math.log2(min(max(tokens / STEPS, LEAST_BATCH_TOKENS), MOST_BATCH_TOKENS)))
    return max(1, wanted // context_length)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the choice must keep within. `corpus_tokens`: fresh tokens at hand; bytes are above what the process holds already."""

    train_s: float
    memory_bytes: int
    corpus_tokens: int
    device: str


def choose(model: ModelSection, pretrain: PretrainSection, vocab_size: int, limits: Limits, speed: Speed) -> Choice:
    """The shape and tokens that the law expects most of within the limits. Raises RecipeError if nothing fits."""
    choices = [
        choice for config in candidates(model, vocab_size) if (choice := plan_training(config, pretrain, limits, speed))
    ]
    if not choices:
        raise RecipeError(
            f"nothing can be trained in {format_duration(limits.train_s)} and {format_bytes(limits.memory_bytes)}: raise "
            "budget or memory, give more text, or write model.hidden_size, model.num_hidden_layers and pretrain.tokens yourself"
        )
    in_time = [choice for choice in choices if choice.seconds <= limits.train_s * 1.01] or choices[:1]
    losses = [expected_loss(parameters(choice.config), choice.tokens, limits.corpus_tokens) for choice in in_time]
    return next(choice for choice, loss in zip(in_time, losses, strict=True) if loss <= min(losses) * NOT_WORTH_IT)


def candidates(section: ModelSection, vocab_size: int) -> list[DecoderConfig]:
    """Every shape that the recipe leaves open and that its numbers fit, the smallest first. Raises ModelError if none fits."""
    configs: list[DecoderConfig] = []
    clash: ModelError | None = None
    for hidden, layers in SHAPES:
        try:
            trial = decoder_config(section, hidden, layers, vocab_size=vocab_size, context_length=256)
        except ModelError as error:  # twelve heads do not divide the smallest width, but a larger one
            clash = error
            continue
        context = choose_context_length(section, parameters(trial))
        configs.append(dataclasses.replace(trial, max_position_embeddings=context))
    if clash is not None and not configs:
        raise clash
    return list(dict.fromkeys(configs))


def plan_training(
    config: DecoderConfig, section: PretrainSection, limits: Limits, speed: Speed, *, context_length: int | None = None
) -> Choice | None:
    """How to train `config` within the limits; None where not even a few batches fit.

    `context_length` None takes all positions that the model has.
    """
    context = context_length or config.max_position_embeddings
    micro_rows = _micro_batch_rows(config, context, section, limits)
    if micro_rows == 0:
        return None
    most = section.max_epochs * limits.corpus_tokens
    if limits.device == "cuda":
        measured, rows = _batch_on_gpu(config, context, micro_rows, section, limits, speed)
    else:
        measured = speed(config, context, micro_rows)
        wanted = min(most, limits.train_s / measured.token_s) if section.tokens == "auto" else section.tokens
        rows = batch_rows(section, wanted, context)
    batch_tokens = rows * context
    if section.tokens == "auto":
        tokens = min(measured.tokens(limits.train_s, batch_tokens), math.ceil(most / batch_tokens) * batch_tokens)
        if tokens < _LEAST_BATCHES * batch_tokens:
            return None
    else:
        tokens = section.tokens
    micro_rows = min(rows, micro_rows)
    return Choice(
        config=config,
        context_length=context,
        batch_rows=rows,
        micro_batch_rows=micro_rows,
        tokens=tokens,
        seconds=measured.seconds(tokens, batch_tokens),
        speed=measured,
        peak_bytes=training_bytes(config, micro_rows, context, section.optimizer),
    )


def _batch_on_gpu(
    config: DecoderConfig, context: int, micro_rows: int, section: PretrainSection, limits: Limits, speed: Speed
) -> tuple[TrainingSpeed, int]:
    """Rows of a batch, and the speed with them.

    Few rows take a GPU about as long as many, so a batch grows as long as that costs hardly any steps or leaves enough of them.
    Between two measured passes, of few and of many rows, time is taken to grow in a straight line.
    """
    rows = batch_rows(section, 0 if section.tokens == "auto" else section.tokens, context)
    few = min(micro_rows, rows)
    low, high = speed(config, context, few), speed(config, context, micro_rows)
    few_s, many_s = low.token_s * few * context, high.token_s * micro_rows * context

    def at(rows: int) -> TrainingSpeed:
        rows = min(rows, micro_rows)
        pass_s = few_s + (many_s - few_s) * (rows - few) / max(1, micro_rows - few)
        return TrainingSpeed(token_s=pass_s / (rows * context), step_s=low.step_s)

    def steps(rows: int) -> float:
        batch_tokens = rows * context
        most = section.max_epochs * limits.corpus_tokens
        return min(most, at(rows).tokens(limits.train_s, batch_tokens)) / batch_tokens

    if section.tokens == "auto" and section.batch_tokens == "auto":
        while 2 * rows * context <= MOST_BATCH_TOKENS and steps(2 * rows) >= min(STEPS, HARDLY_FEWER * steps(rows)):
            rows *= 2
    return at(rows), rows


def _micro_batch_rows(config: DecoderConfig, context: int, section: PretrainSection, limits: Limits) -> int:
    """Rows computed at once: enough to keep the machine busy, fewer where memory is short; 0 where not one row fits."""
    if section.micro_batch_rows != "auto":
        return section.micro_batch_rows
    rows = max(1, MICRO_BATCH_TOKENS[limits.device] // context)
    while rows and training_bytes(config, rows, context, section.optimizer) > limits.memory_bytes:
        rows //= 2
    return rows


class Speedometer:
    """Speed of any shape, from real probes of two, interpolated by size.

    `launches`: also a pass of one row is measured, and no layer of a micro-batch takes less time than there: on a GPU small
    shapes are bound by the launching of their kernels.
    """

    def __init__(
        self, probe: Speed, vocab_size: int, anchors: tuple[tuple[int, int], ...], *, launches: bool = False
    ) -> None:
        self._anchors: list[tuple[DecoderConfig, TrainingSpeed]] = []
        for hidden, layers in anchors:
            config = decoder_config(ModelSection(), hidden, layers, vocab_size=vocab_size, context_length=256)
            self._anchors.append((config, probe(config, 256, ANCHOR_ROWS)))
        least = self._anchors[0][0]
        self._layer_s = probe(least, 256, 1).token_s * 256 / least.num_hidden_layers if launches else 0.0

    def __call__(self, config: DecoderConfig, context_length: int, rows: int) -> TrainingSpeed:
        """Interpolated: operations a second, and optimiser seconds a parameter, in a straight line over log parameters."""
        low, high = (math.log(parameters(anchor)) for anchor, _ in self._anchors)
        at = min(1.0, max(0.0, (math.log(parameters(config)) - low) / (high - low)))
        rates = [train_flops_per_token(c, 256) / s.token_s for c, s in self._anchors]
        rate = rates[0] + at * (rates[1] - rates[0])
        per_parameter = [s.step_s / parameters(c) for c, s in self._anchors]
        step = per_parameter[0] + at * (per_parameter[1] - per_parameter[0])
        launching_s = self._layer_s * config.num_hidden_layers / (rows * context_length)
        return TrainingSpeed(
            token_s=max(train_flops_per_token(config, context_length) / rate, launching_s),
            step_s=step * parameters(config),
        )
