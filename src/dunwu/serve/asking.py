"""What a client asks, as the engine wants to hear it."""

from collections.abc import Iterable

from dunwu.core.errors import RecipeError
from dunwu.infer.constrain import Constraint
from dunwu.infer.sampling import SamplingParams
from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel
from dunwu.serve.schemas import ResponseFormat, Sampling, StructuredOutputs

DEFAULT_TEMPERATURE = 1.0  # OpenAI's
LONG_CHARACTERS = 20_000
"""From here on encoding a text takes so long that it happens beside the event loop."""


def sampling_params(
    asked: Sampling,
    model: ServedModel,
    *,
    max_tokens: int | None,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    constraint: Constraint | None = None,
    beams: int | None = None,
) -> SamplingParams:
    """Raises ApiError 400 for values that do not go together."""
    bias, rows = {int(key): value for key, value in (asked.logit_bias or {}).items()}, model.tokenizer.vocab_size
    if beyond := next((number for number in bias if number >= rows), None):
        text = f"logit_bias has the id {beyond}, and the tokenizer's are 0 to {rows - 1}"
        raise ApiError(400, text, param="logit_bias", code="invalid_value")
    if asked.use_beam_search:
        beams = max(beams or 1, asked.n or 1)
    default = DEFAULT_TEMPERATURE if beams is None else 0.0
    temperature = default if asked.temperature is None else asked.temperature
    stop_ids = None
    if asked.stop_token_ids:
        stop_ids = (*(() if asked.ignore_eos else model.tokenizer.stop_ids), *asked.stop_token_ids)
    try:
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=asked.min_tokens or 0,
            temperature=0.0 if asked.top_p == 0 else temperature,
            top_k=max(asked.top_k or 0, 0),
            top_p=asked.top_p or 1.0,
            min_p=asked.min_p or 0.0,
            typical_p=1.0 if asked.typical_p is None else asked.typical_p,
            repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
            presence_penalty=asked.presence_penalty or 0.0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            logit_bias=bias,
            stop=asked.stops,
            stop_ids=stop_ids,
            ignore_eos=bool(asked.ignore_eos),
            seed=asked.seed,
            n=asked.n or 1,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            constraint=constraint,
            beams=beams,
            length_penalty=1.0 if asked.length_penalty is None else asked.length_penalty,
            early_stopping=bool(asked.early_stopping),
        )
    except RecipeError as error:
        raise ApiError(400, str(error), code="invalid_value") from error


def constraint_of(asked: Sampling) -> Constraint | None:
    """The one form that the answer must have. Raises ApiError 400 for more than one, or for one that cannot be read."""
    try:
        found = [one for one in _constraints(asked) if one is not None]
    except RecipeError as error:
        raise ApiError(400, str(error), code="invalid_value") from error
    if len(found) > 1:
        raise ApiError(
            400,
            f"the answer cannot follow {len(found)} forms at once; give one of response_format, structured_outputs, "
            "guided_json, guided_regex, guided_choice and guided_grammar",
            code="invalid_value",
        )
    return found[0] if found else None


def _constraints(asked: Sampling) -> Iterable[Constraint | None]:
    if asked.response_format is not None:
        yield _of_format(asked.response_format)
    if asked.structured_outputs is not None:
        yield from _of_structure(asked.structured_outputs)
    yield None if asked.guided_json is None else Constraint.json_schema(asked.guided_json)
    yield None if asked.guided_regex is None else Constraint.regex(asked.guided_regex)
    yield None if asked.guided_choice is None else Constraint.choice(asked.guided_choice)
    yield None if asked.guided_grammar is None else Constraint.grammar(asked.guided_grammar)


def _of_format(form: ResponseFormat) -> Constraint | None:
    match form.type:
        case "text":
            return None
        case "json_object":
            return Constraint.json_schema({"type": "object"})
        case "json_schema":
            assert form.json_schema is not None
            return Constraint.json_schema(form.json_schema.schema_ or {})


def _of_structure(wanted: StructuredOutputs) -> Iterable[Constraint | None]:
    yield None if wanted.json_ is None else Constraint.json_schema(wanted.json_)
    yield None if wanted.regex is None else Constraint.regex(wanted.regex)
    yield None if wanted.choice is None else Constraint.choice(wanted.choice)
    yield None if wanted.grammar is None else Constraint.grammar(wanted.grammar)
    yield Constraint.json_schema({"type": "object"}) if wanted.json_object else None


def require_few(asked: Sampling, most: int) -> None:
    """Raises ApiError 400 for more completions than one request may ask for."""
    if (asked.n or 1) > most:
        raise ApiError(
            400,
            f"n={asked.n} is more than the {most} completions that one request may ask for; send several requests",
            param="n",
            code="invalid_value",
        )


def require_room(prompt_tokens: int, model: ServedModel, *, param: str) -> None:
    """Raises ApiError 400 where no token of an answer fits after the prompt."""
    if prompt_tokens >= model.context_length:
        raise ApiError(
            400,
            f"this model reads {model.context_length} tokens at most, its answer included, and {param} takes "
            f"{prompt_tokens}; shorten it",
            param=param,
            code="context_length_exceeded",
        )
