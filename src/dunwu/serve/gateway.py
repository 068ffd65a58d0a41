"""Models that are somewhere else, and routes over several, behind the same API; and what each key may spend on them.

A file such as

    models:
      large: {url: https://api.example.com/v1, model: big-2, key_variable: EXAMPLE_KEY, price: {prompt: 0.5, completion: 1.5}}
      team:  {cascade: [demo, large], sure_above: -0.3}
      safe:  {fallback: [large, demo]}
    budgets:
      alice: {limit: 5, period: month}

where `demo` is a model that this server has itself. A name without a model of its own is refused when the file is read.
"""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Unpack

from pydantic import Field, ValidationError
from ruamel.yaml.error import YAMLError

from dunwu.chat.engine_chat import EngineChat
from dunwu.chat.ledger import Budget, Budgeted, Counted, Ledger, Price
from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import AsyncChat, Piece
from dunwu.chat.remote import KEY_VARIABLE, TIMEOUT_S, RemoteChat
from dunwu.chat.router import Cascade, Fallback, MeanLogprob, Retrying, SelfConsistency
from dunwu.core.errors import RecipeError
from dunwu.core.records import Message
from dunwu.core.yaml import parse_yaml
from dunwu.serve.complaints import refusal
from dunwu.serve.models import Shelf
from dunwu.serve.schemas import Strict

EVERYONE = "everyone"
"""The budget of all keys together."""


class PriceEntry(Strict):
    """For a million tokens, in one currency for the whole file."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]
    cached: Annotated[float, Field(ge=0)] | None = None


class ModelEntry(Strict):
    """A model of an OpenAI-compatible endpoint (`url` and `model`), or a route over others: `fallback` asks the next when one
    does not answer, `cascade` when one is not sure. Sure is an answer whose tokens have a mean log-probability of
    `sure_above`, or that `sure_of` samples agree on."""

    url: str | None = None
    model: str | None = None
    key_variable: str = KEY_VARIABLE
    timeout_s: Annotated[float, Field(gt=0)] = TIMEOUT_S
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    price: PriceEntry | None = None
    fallback: list[str] | None = None
    cascade: list[str] | None = None
    sure_above: Annotated[float, Field(le=0)] | None = None
    sure_of: Annotated[int, Field(ge=2, le=16)] | None = None


class BudgetEntry(Strict):
    """What a key, or `everyone`, may spend in a period. `spent_file` keeps it from one start of the server to the next."""

    limit: Annotated[float, Field(ge=0)]
    period: Literal["total", "month", "day"] = "month"
    spent_file: str | None = None


class GatewayFile(Strict):
    """The whole file."""

    models: dict[str, ModelEntry]
    budgets: dict[str, BudgetEntry] = Field(default_factory=dict[str, BudgetEntry])


def read_gateway(path: Path) -> GatewayFile:
    """Raises RecipeError with every fault found."""
    try:
        data = parse_yaml(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path} must hold `models:`; see `dunwu serve --help`")
    try:
        return GatewayFile.model_validate(data)
    except ValidationError as error:
        complaints = [{**one, "loc": ("file", *one["loc"])} for one in error.errors(include_url=False)]
        raise RecipeError(f"{path} is no gateway: {refusal(complaints, data)}") from error


class Gateway:
    """Partners by the names that clients ask for. `ledger` counts what each of them took."""

    def __init__(self, entries: GatewayFile, shelf: Shelf) -> None:
        self.ledger = Ledger()
        self._shelf, self._entries = shelf, entries.models
        self._partners: dict[str, AsyncChat] = {}
        self._budgets = {name: _budget(name, entry) for name, entry in entries.budgets.items()}
        for name in entries.models:
            if name in shelf.sources:
                raise RecipeError(
                    f"two models are called {name!r}, in the gateway's file and on this machine; rename one"
                )
        for name in entries.models:
            self._partners[name] = self._build(name, ())

    @property
    def names(self) -> Sequence[str]:
        """What can be asked for."""
        return tuple(self._partners)

    def __contains__(self, name: str) -> bool:
        return name in self._partners

    def partner(self, name: str, key: str) -> AsyncChat:
        """Who answers, on the account of this key and of everyone."""
        chat = self._partners[name]
        for payer in (key, EVERYONE):
            if payer in self._budgets:
                chat = Budgeted(chat, self._budgets[payer])
        return chat

    def _build(self, name: str, above: tuple[str, ...]) -> AsyncChat:
        if name in above:
            raise RecipeError(f"the route {' → '.join((*above, name))} leads back to itself; take one of them out")
        if name in self._partners:
            return self._partners[name]
        if name in self._shelf.sources:
            return Counted(_Local(self._shelf, name), name, self.ledger)
        if name not in self._entries:
            known = ", ".join((*self._entries, *self._shelf.sources))
            raise RecipeError(f"{' → '.join((*above, name))}: there is no model {name!r}; there are: {known}")
        entry = self._entries[name]
        kinds = [kind for kind in ("url", "fallback", "cascade") if getattr(entry, kind) is not None]
        if len(kinds) != 1:
            raise RecipeError(
                f"models.{name} has {' and '.join(kinds) or 'none'} of url, fallback and cascade; give one"
            )
        if entry.fallback is not None:
            return Fallback([self._build(one, (*above, name)) for one in entry.fallback])
        if entry.cascade is not None:
            return Cascade([self._build(one, (*above, name)) for one in entry.cascade], _judge(name, entry))
        return self._remote(name, entry)

    def _remote(self, name: str, entry: ModelEntry) -> AsyncChat:
        if entry.model is None:
            raise RecipeError(f"models.{name}.model is missing: what the endpoint calls the model")
        price = None if entry.price is None else Price(**entry.price.model_dump())
        chat = RemoteChat(entry.url or "", entry.model, key_variable=entry.key_variable, timeout_s=entry.timeout_s)
        return Retrying(Counted(chat, name, self.ledger, price=price), attempts=entry.attempts)


def _judge(name: str, entry: ModelEntry) -> MeanLogprob | SelfConsistency:
    if (entry.sure_above is None) == (entry.sure_of is None):
        raise RecipeError(
            f"models.{name} must say when an answer is sure: give sure_above (such as -0.3) or sure_of (such as 3)"
        )
    if entry.sure_above is not None:
        return MeanLogprob(entry.sure_above)
    return SelfConsistency(samples=entry.sure_of or 2)


def _budget(name: str, entry: BudgetEntry) -> Budget:
    path = None if entry.spent_file is None else Path(entry.spent_file).expanduser()
    return Budget(name, entry.limit, period=entry.period, path=path)


class _Local(AsyncChat):
    """A model of this server."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        self._shelf, self._name = shelf, name

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        model = await self._shelf.model(self._name)
        chat = EngineChat(model.engine, model.tokenizer, context_length=model.context_length, name=self._name)
        async for piece in chat.pieces(messages, settled(options, changes)):
            yield piece
