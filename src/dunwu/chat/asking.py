"""What a conversation asks of an engine of ours, and what the engine's events say to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dunwu.chat.calls import CallDelta, CallParser
from dunwu.chat.forms import CallForm, call_form, tool_constraint
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Delta, Finish, Piece
from dunwu.core.errors import PartnerError
from dunwu.core.records import Message, TokenLogprob, TokenUsage
from dunwu.infer.constrain import Constraint
from dunwu.infer.events import FinishEvent, TokenEvent
from dunwu.infer.sampling import SamplingParams
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.template import encode_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt and how to answer it. `form`: how calls are written; None where none are to be looked for."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    options: ChatOptions
    form: CallForm | None


def question(tokenizer: TokenizerLike, messages: Sequence[Message], options: ChatOptions) -> Question:
    """Raises DataError for a conversation that the template refuses, RecipeError for options that do not go together."""
    calls = bool(options.tools) and options.tool_choice != "none"
    form = call_form(tokenizer) if calls else None
    constraint = None
    if options.schema is not None:
        constraint = Constraint.json_schema(options.schema)
    elif form is not None:
        constraint = tool_constraint(options.tools, options.tool_choice, form, parallel=options.parallel_tool_calls)
    params = SamplingParams(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p or 1.0,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        stop=options.stop,
        seed=options.seed,
        logprobs=options.logprobs,
        constraint=constraint,
        beams=options.beams,
    )
    tools = options.tools if calls else ()
    return Question(
        prompt_ids=tuple(encode_prompt(tokenizer, messages, tools=tools)), params=params, options=options, form=form
    )


class AnswerWriter:
    """The engine's events of one answer as pieces of a chat."""

    def __init__(self, tokenizer: TokenizerLike, asked: Question, *, model: str = "") -> None:
        self._tokenizer, self._model = tokenizer, model
        self._parser = None if asked.form is None else CallParser(asked.form, asked.options.tools)

    def push(self, event: TokenEvent) -> Iterator[Delta]:
        """What a token adds."""
        scored = ()
        if event.logprob is not None:
            top = tuple((self._token_text(one.id), one.logprob) for one in event.top_logprobs or ())
            scored = (TokenLogprob(text=self._token_text(event.token_id), logprob=event.logprob, top=top),)
        first, *rest = self._parsed(event.text) or [Delta()]
        yield Delta(text=first.text, call=first.call, logprobs=scored, ids=(event.token_id,))
        yield from rest

    def finish(self, event: FinishEvent) -> Iterator[Piece]:
        """The rest. Raises PartnerError for an answer that failed."""
        if event.reason in ("error", "cancelled"):
            raise PartnerError(
                event.error or f"the answer was {event.reason}; ask again", transient=event.reason == "cancelled"
            )
        yield from self._parsed(event.text)
        called = False
        if self._parser:
            yield from map(_delta, self._parser.finish())
            called = self._parser.calls > 0
        usage = TokenUsage(
            prompt_tokens=event.usage.prompt_tokens,
            completion_tokens=event.usage.completion_tokens,
            cached_tokens=event.usage.cached_tokens,
        )
        yield Finish(
            reason="tool_calls" if called and event.reason == "stop" else event.reason,
            usage=usage,
            model=self._model,
        )

    def _parsed(self, text: str) -> list[Delta]:
        if self._parser is None:
            return [Delta(text=text)] if text else []
        return list(map(_delta, self._parser.push(text)))

    def _token_text(self, number: int) -> str:
        return self._tokenizer.id_bytes(number).decode("utf-8", errors="replace")


def _delta(piece: str | CallDelta) -> Delta:
    return Delta(text=piece) if isinstance(piece, str) else Delta(call=piece)
