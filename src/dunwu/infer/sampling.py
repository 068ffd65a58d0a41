"""From a batch of logits to one token a row, where each row has parameters of its own.

What happens to a row, in this order (that of transformers' `generate`, with the penalties of vLLM in their place before the
temperature, so that a request moved from either behaves alike):

1. ids that the row's mask (its grammar) forbids, and stop ids before `min_tokens`, are ruled out;
2. `logit_bias` is added;
3. repetition, then frequency and presence penalties;
4. temperature 0 takes the likeliest now; otherwise the logits are divided by it;
5. top-k, top-p, min-p, typical, each on what the one before has left, made to sum to 1 again;
6. one number in [0, 1), a pure function of seed and place, picks from what remains.

Every filter drops the tokens below a floor. Equal tokens thus stay or go together, as in transformers and vLLM, and a row's
choice depends on nothing but the row: not on what else is in the batch, nor on how a sort breaks ties.

Shapes: `B` rows, `P` the rows that a filter concerns, `V` vocabulary, `W` the likeliest so many, `N` changed logits.
"""

import dataclasses
import hashlib
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dunwu.core.errors import ModelError, RecipeError
from dunwu.infer.constrain import Constraint

MOST_LOGPROBS = 20  # OpenAI's limit
MOST_BEAMS = 64
MOST_BIAS = 100.0  # OpenAI's limit: as good as a ban, or a command
_WIDTHS = (256, 4096)  # where a distribution has its mass in so many tokens, finding these is much faster than a sort
_NEVER = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one request is answered. At the defaults: the likeliest token until the model stops or its context is full.

    `max_tokens` None: as many as the context holds. `repetition_penalty` concerns prompt and completion (arXiv:1909.05858);
    `presence_penalty` and `frequency_penalty` the completion only, as OpenAI defines them. `logit_bias`: id → what is added.
    `stop`: strings that end the text and are no part of it. `stop_ids` None: the tokenizer's; `ignore_eos` goes on past
    these (for measuring). `seed` None: a new one for each request. `n`: completions of one prompt. `logprobs`: None, or how
    many likeliest alternatives to report beside each token's own; `prompt_logprobs` the same for the prompt. `beams`: search for
    the likeliest completions with so many at a time instead (`infer/beam.py`), and give the best `n`, once all are found.
    Raises RecipeError for values out of range.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict, hash=False)
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    beams: int | None = None
    length_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _require_count("max_tokens", self.max_tokens, 1, math.inf, "leave it out to fill the context")
        _require_count("min_tokens", self.min_tokens, 0, self.max_tokens or math.inf, "use 0 for no minimum")
        _require_range("temperature", self.temperature, 0, math.inf, "use 0 for the likeliest token, or try 0.7")
        _require_count("top_k", self.top_k, 0, math.inf, "use 0 to keep all")
        _require_range("top_p", self.top_p, 0, 1, "use 1 to keep all", above=True)
        _require_range("min_p", self.min_p, 0, 1, "use 0 to keep all")
        _require_range("typical_p", self.typical_p, 0, 1, "use 1 to keep all", above=True)
        _require_range("repetition_penalty", self.repetition_penalty, 0.01, 100, "use 1 for none")
        _require_range("presence_penalty", self.presence_penalty, -2, 2, "use 0 for none")
        _require_range("frequency_penalty", self.frequency_penalty, -2, 2, "use 0 for none")
        for number, bias in self.logit_bias.items():
            _require_count("an id in logit_bias", number, 0, math.inf, "use ids of the tokenizer")
            _require_range(f"logit_bias[{number}]", bias, -MOST_BIAS, MOST_BIAS, f"use -{MOST_BIAS:g} for a ban")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise RecipeError(f"stop={self.stop!r} must be a tuple of strings, none empty; leave the empty one out")
        for number in self.stop_ids or ():
            _require_count("an id in stop_ids", number, 0, math.inf, "use ids of the tokenizer")
        if self.seed is not None:
            _require_count("seed", self.seed, -math.inf, math.inf, "leave it out for a new one each time")
        _require_count("n", self.n, 1, math.inf, "use 1 for one completion")
        for name, count in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if count is not None:
                _require_count(name, count, 0, MOST_LOGPROBS, "leave it out for none")
        if self.beams is not None:
            self._require_searchable(self.beams)

    def _require_searchable(self, beams: int) -> None:
        _require_count("beams", beams, 1, MOST_BEAMS, "leave it out for no search")
        _require_count("n", self.n, 1, beams, "a search gives at most as many completions as it has beams")
        _require_range("length_penalty", self.length_penalty, -100, 100, "use 1 to divide by the length")
        if self.temperature or self.stop or self.logprobs is not None:
            raise RecipeError(
                f"beams={beams} finds the likeliest texts; leave out temperature, stop strings and logprobs (stop_ids end a beam)"
            )

    def resolved(self, stop_ids: Iterable[int]) -> "SamplingParams":
        """With what was left open filled in: the tokenizer's `stop_ids`, and a seed, so that recomputing repeats the draws."""
        own = self.stop_ids if self.stop_ids is not None else () if self.ignore_eos else tuple(stop_ids)
        return dataclasses.replace(self, stop_ids=own, seed=secrets.randbits(62) if self.seed is None else self.seed)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken as it is, and nothing said of it."""
        changed = self.logit_bias or self._penalised or self.min_tokens or self.logprobs is not None
        return self.greedy and not changed

    @property
    def _penalised(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class History(NamedTuple):
    """What a row has read and written: the ids of its prompt and those of its completion so far."""

    prompt: Sequence[int]
    completion: Sequence[int]


class Scored(NamedTuple):
    """A token and its log-probability, nats."""

    id: int
    logprob: float


class Choice(NamedTuple):
    """One token a row. `logprobs` and `top` (the likeliest first) are the model's own, before any filter, temperature, bias
    or mask (vLLM's `raw_logprobs`); None for rows that did not ask."""

    ids: list[int]
    logprobs: list[float | None]
    top: list[list[Scored] | None]


def draw(seed: int, index: int, *, branch: int = 0, use: str = "token") -> float:
    """A number in [0, 1): a pure function of its arguments, the same on every machine.

    `index`: the token's place in the completion. `branch`: which of a request's `n` completions. `use`: what it is for, so
    that the second number for one place (speculation needs two) is independent of the first.
    """
    digest = hashlib.blake2b(f"{seed}/{branch}/{index}/{use}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53


def choose(
    logits_BV: Tensor,
    params: Sequence[SamplingParams],
    histories: Sequence[History],
    draws: Sequence[float],
    *,
    masks: Mapping[int, Tensor] | None = None,
) -> Choice:
    """The next token of each row. `draws`: a number in [0, 1) a row, as `draw` gives; a greedy row's is not looked at.

    `masks`: row → [V] bool, the ids that its grammar allows. Logits of -inf are never chosen. The parameters must be
    `resolved` where they have `min_tokens`. Raises ModelError when the logits of a row are not finite: a model that says
    nothing must not look as if it did.
    """
    masks = masks or {}
    plain = not masks and not any(map(_changes_logits, params, histories))
    if plain and all(one.greedy for one in params):
        ids = _likeliest(logits_BV)
    else:
        _require_finite(logits_BV.amax(dim=-1))
        changed_BV = processed(logits_BV, params, histories, masks)
        drawn = [row for row, one in enumerate(params) if not one.greedy]
        ids = [0] * len(params) if len(drawn) == len(params) else _likeliest(changed_BV)
        if drawn:
            drawn_PV = changed_BV if len(drawn) == len(params) else changed_BV[drawn]
            kept_PV = filtered(drawn_PV, [params[row] for row in drawn])
            for row, number in zip(drawn, pick(kept_PV, [draws[row] for row in drawn]), strict=True):
                ids[row] = number
    return Choice(ids, *_reported(logits_BV, ids, params))


def distribution(
    logits_BV: Tensor,
    params: Sequence[SamplingParams],
    histories: Sequence[History],
    *,
    masks: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """What `choose` draws from, [B, V] float32, each row summing to 1; all on the likeliest in greedy rows."""
    _require_finite(logits_BV.amax(dim=-1))
    changed_BV = processed(logits_BV, params, histories, masks or {})
    result_BV = torch.zeros_like(changed_BV).scatter_(1, changed_BV.argmax(-1, keepdim=True), 1.0)
    if rows := [row for row, one in enumerate(params) if not one.greedy]:
        result_BV[rows] = filtered(changed_BV[rows], [params[row] for row in rows])
    return result_BV


def token_logprobs(logits_TV: Tensor, ids: Sequence[int], count: int) -> list[tuple[float, list[Scored]]]:
    """For each row: the log-probability of its id, and the `count` likeliest with theirs, the likeliest first.

    For a prompt: row t's logits and the id at t + 1.
    """
    logprobs_TV = logits_TV.float().log_softmax(dim=-1)
    ids_T1 = torch.tensor(ids, device=logits_TV.device)[:, None]
    chosen = logprobs_TV.gather(1, ids_T1)[:, 0].tolist()
    top_TW = logprobs_TV.topk(min(count, logits_TV.shape[-1]), dim=-1)
    pairs = zip(chosen, top_TW.indices.tolist(), top_TW.values.tolist(), strict=True)
    return [(own, [Scored(*pair) for pair in zip(numbers, values, strict=True)]) for own, numbers, values in pairs]


def processed(
    logits_BV: Tensor, params: Sequence[SamplingParams], histories: Sequence[History], masks: Mapping[int, Tensor]
) -> Tensor:
    """Masks, minimum length, bias and penalties: steps 1 to 3, [B, V] float32."""
    changed_BV = logits_BV.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    for row, allowed_V in masks.items():
        changed_BV[row].masked_fill_(~allowed_V.to(changed_BV.device), _NEVER)
    if masks:
        _require_any(changed_BV, "the grammar allows no token that the model has")
    for row, (one, past) in enumerate(zip(params, histories, strict=True)):
        if len(past.completion) < one.min_tokens:
            assert one.stop_ids is not None, "params with min_tokens must be resolved"
            _forbid(changed_BV[row], one.stop_ids)
        if one.logit_bias:
            add_bias(changed_BV[row], one.logit_bias)
    rows = [row for row, one in enumerate(params) if one._penalised]
    if rows:
        penalise(changed_BV, rows, [params[row] for row in rows], [histories[row] for row in rows])
    return changed_BV


def filtered(logits_PV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Temperature, then the filters: steps 4 and 5, as probabilities, [P, V] float32: zero for what is dropped."""
    temperature_P1 = _column([one.temperature for one in params], logits_PV)
    temperature_P1 = temperature_P1.clamp(1e-38, 1e30)  # in float32: neither 0 / 0 nor inf / inf
    logits_PV = (logits_PV - logits_PV.amax(-1, keepdim=True)).div_(temperature_P1)
    for keep, values, off in (
        (keep_top_k, [one.top_k for one in params], 0),
        (keep_top_p, [one.top_p for one in params], 1.0),
        (keep_min_p, [one.min_p for one in params], 0.0),
        (keep_typical, [one.typical_p for one in params], 1.0),
    ):
        logits_PV = _on_rows(keep, logits_PV, values, off)
    return logits_PV.softmax(dim=-1)


def pick(probabilities_PV: Tensor, draws: Sequence[float]) -> list[int]:
    """Invert each row's cumulative distribution, in float64 so that a large vocabulary does not blur it."""
    cumulative_PV = probabilities_PV.double().cumsum(-1)
    drawn_P1 = torch.tensor(draws, dtype=torch.float64, device=cumulative_PV.device)[:, None]
    found_P1 = torch.searchsorted(cumulative_PV, drawn_P1 * cumulative_PV[:, -1:], right=True)
    return found_P1.clamp_(max=probabilities_PV.shape[-1] - 1)[:, 0].tolist()


def add_bias(logits_V: Tensor, bias: Mapping[int, float]) -> None:
    """OpenAI's `logit_bias`, in place. Ids that the model has not are passed over."""
    ids = [number for number in bias if number < logits_V.shape[0]]
    logits_V[ids] += torch.tensor([bias[number] for number in ids], device=logits_V.device)


def penalise(
    logits_BV: Tensor, rows: Sequence[int], params: Sequence[SamplingParams], histories: Sequence[History]
) -> None:
    """The three penalties on these rows, in place.

    Repetition: a positive logit is divided by it and a negative one multiplied, once for each token in prompt or completion
    (arXiv:1909.05858 section 4.1, with transformers' rule for the sign). Frequency and presence: the logit loses
    count · frequency + presence, for tokens of the completion (OpenAI's API reference).
    """
    flat = logits_BV.view(-1)
    seen_N, place_N, _ = _counted(rows, [[*past.prompt, *past.completion] for past in histories], logits_BV)
    factor_N = _column([one.repetition_penalty for one in params], logits_BV)[place_N, 0]
    old_N = flat[seen_N]
    flat[seen_N] = torch.where(old_N > 0, old_N / factor_N, old_N * factor_N)
    written_N, place_N, count_N = _counted(rows, [past.completion for past in histories], logits_BV)
    frequency_N = _column([one.frequency_penalty for one in params], logits_BV)[place_N, 0]
    presence_N = _column([one.presence_penalty for one in params], logits_BV)[place_N, 0]
    flat[written_N] -= count_N * frequency_N + presence_N


def keep_top_k(logits_PV: Tensor, top_k_P1: Tensor) -> Tensor:
    """Keep the `top_k` likeliest and their equals (arXiv:1805.04833)."""
    V = logits_PV.shape[-1]
    sorted_PW = logits_PV.topk(min(int(top_k_P1.max()), V), dim=-1).values
    floor_P1 = sorted_PW.gather(1, top_k_P1.long().clamp(max=V) - 1)
    return logits_PV.masked_fill(logits_PV < floor_P1, _NEVER)


def keep_top_p(logits_PV: Tensor, top_p_P1: Tensor) -> Tensor:
    """Keep the fewest likely tokens whose probabilities reach `top_p`, and their equals (arXiv:1904.09751)."""
    probabilities_PV = logits_PV.softmax(dim=-1)
    floor_P1 = _floor_of_mass(probabilities_PV, probabilities_PV, top_p_P1)
    return logits_PV.masked_fill(probabilities_PV < floor_P1, _NEVER)


def keep_min_p(logits_PV: Tensor, min_p_P1: Tensor) -> Tensor:
    """Keep tokens at least `min_p` times as likely as the likeliest (arXiv:2407.01082)."""
    floor_P1 = logits_PV.amax(-1, keepdim=True) + min_p_P1.log().float()
    return logits_PV.masked_fill(logits_PV < floor_P1, _NEVER)


def keep_typical(logits_PV: Tensor, typical_p_P1: Tensor) -> Tensor:
    """Keep the fewest tokens whose probabilities reach `typical_p`, those first whose surprise is nearest to the entropy, and
    their equals (arXiv:2202.00666 section 4)."""
    logprobs_PV = logits_PV.log_softmax(dim=-1)
    probabilities_PV = logprobs_PV.exp()
    entropy_P1 = torch.special.entr(probabilities_PV).sum(-1, keepdim=True)
    nearness_PV = -(logprobs_PV + entropy_P1).abs()
    floor_P1 = _floor_of_mass(nearness_PV, probabilities_PV, typical_p_P1)
    return logits_PV.masked_fill(nearness_PV < floor_P1, _NEVER)


def _floor_of_mass(keys_PV: Tensor, weights_PV: Tensor, mass_P1: Tensor) -> Tensor:
    """The key of the last token, in falling order of keys, that the sum of weights needs to reach `mass`, [P, 1]."""
    V = keys_PV.shape[-1]
    for width in (*(width for width in _WIDTHS if width < V), V):
        sorted_PW = keys_PV.topk(width, dim=-1) if width < V else keys_PV.sort(dim=-1, descending=True)
        reached_PW = weights_PV.gather(1, sorted_PW.indices).double().cumsum_(-1)
        if width == V or bool((reached_PW[:, -1:] >= mass_P1).all()):
            needed_P1 = (reached_PW < mass_P1).sum(-1, keepdim=True).clamp(max=width - 1)
            return sorted_PW.values.gather(1, needed_P1)
    raise AssertionError("the last width is V")


def _on_rows(
    keep: Callable[[Tensor, Tensor], Tensor], logits_PV: Tensor, values: Sequence[float], off: float
) -> Tensor:
    """The filter on the rows that want it."""
    rows = [row for row, value in enumerate(values) if value != off]
    if not rows:
        return logits_PV
    column_P1 = _column([values[row] for row in rows], logits_PV, torch.float64)  # 0.9 is 0.9, and any count itself
    if len(rows) == len(values):
        return keep(logits_PV, column_P1)
    logits_PV = logits_PV.clone()
    logits_PV[rows] = keep(logits_PV[rows], column_P1)
    return logits_PV


def _counted(rows: Sequence[int], ids: Sequence[Sequence[int]], logits_BV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each token of each row once: its place in the flat logits, the place of its row in `rows`, how often it occurs; all [N]."""
    V = logits_BV.shape[-1]
    flat = [place * V + number for place, numbers in enumerate(ids) for number in numbers if number < V]
    flat_N, count_N = torch.tensor(flat, dtype=torch.long, device=logits_BV.device).unique(return_counts=True)
    place_N = flat_N // V
    row_N = torch.tensor(rows, device=logits_BV.device)[place_N]
    return row_N * V + flat_N % V, place_N, count_N


def _forbid(logits_V: Tensor, ids: Iterable[int]) -> None:
    """Rule ids out, in place, unless nothing else is left: a grammar that is at its end stands above a minimum length."""
    before_V = logits_V.clone()
    logits_V[[number for number in ids if number < logits_V.shape[0]]] = _NEVER
    if bool(torch.isinf(logits_V.amax())):
        logits_V.copy_(before_V)


def _likeliest(logits_BV: Tensor) -> list[int]:
    best_B1 = logits_BV.argmax(dim=-1, keepdim=True)  # NaN counts as the greatest
    _require_finite(logits_BV.gather(1, best_B1))
    return best_B1[:, 0].tolist()


def _changes_logits(params: SamplingParams, past: History) -> bool:
    return bool(params.logit_bias) or params._penalised or len(past.completion) < params.min_tokens


def _reported(
    logits_BV: Tensor, ids: Sequence[int], params: Sequence[SamplingParams]
) -> tuple[list[float | None], list[list[Scored] | None]]:
    logprobs: list[float | None] = [None] * len(ids)
    top: list[list[Scored] | None] = [None] * len(ids)
    counts = {row: one.logprobs for row, one in enumerate(params) if one.logprobs is not None}
    if counts:
        rows = [*counts]
        found = token_logprobs(logits_BV[rows], [ids[row] for row in rows], max(counts.values()))
        for (row, count), (own, likeliest) in zip(counts.items(), found, strict=True):
            logprobs[row], top[row] = own, likeliest[:count]
    return logprobs, top


def _column(values: Sequence[float], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[P, 1]."""
    return torch.tensor(values, dtype=dtype, device=like.device)[:, None]


def _require_any(logits_BV: Tensor, fault: str) -> None:
    if bool(torch.isinf(logits_BV.amax(dim=-1)).any()):
        raise ModelError(f"{fault}; give the model its own tokenizer, or loosen the grammar")


def _require_finite(best_B: Tensor) -> None:
    if not bool(torch.isfinite(best_B).all()):
        raise ModelError(
            "the model's logits are not finite: its weights are damaged or training diverged; train it again"
        )


def _require_range(name: str, value: float, low: float, high: float, remedy: str, *, above: bool = False) -> None:
    """`above`: `low` itself is out of range."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value != math.inf
    if not (number and low <= value <= high and not (above and value == low)):
        least = f"above {low}" if above else f"at least {low}"
        most = "" if high == math.inf else f" and at most {high:g}"
        raise RecipeError(f"{name}={value!r} must be a number {least}{most}; {remedy}")


def _require_count(name: str, value: int, low: float, high: float, remedy: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        least = "" if low == -math.inf else f" of at least {low}"
        most = "" if high == math.inf else f" and at most {high}"
        raise RecipeError(f"{name}={value!r} must be a whole number{least}{most}; {remedy}")
