"""Models with a prompt strategy or a chain around them, offered beside the models themselves as MODEL:NAME."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dunwu.chat.protocol import AsyncChat
from dunwu.core.errors import PromptError, RecipeError
from dunwu.prompt.chains.files import load_chain
from dunwu.prompt.chains.served import ChainChat, models_of
from dunwu.prompt.chains.step import Chain
from dunwu.prompt.strategies.registry import async_strategy, require_strategy
from dunwu.serve.deltas import Lookup
from dunwu.serve.errors import ApiError
from dunwu.serve.local_partner import LocalPartner
from dunwu.serve.models import ServedModel, Shelf
from dunwu.serve.source import ModelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A strategy and its name. Raises RecipeError for a strategy that there is not."""

    name: str
    strategy: str

    def __post_init__(self) -> None:
        require_strategy(self.strategy)
        if not self.name or ":" in self.name or self.name != self.name.strip():
            raise RecipeError(
                f"{self.name!r} is no name for the strategy {self.strategy}; write NAME=STRATEGY, the name without colons"
            )

    def around(self, chat: AsyncChat) -> AsyncChat:
        """A partner that is asked in this way."""
        return async_strategy(self.strategy, chat)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainWay:
    """A chain of prompts, and its name. `strategy`: where it comes from."""

    name: str
    strategy: str
    chain: Chain

    def around(self, chat: AsyncChat) -> AsyncChat:
        """A partner that runs the chain, asking this one. Raises PromptError for a chain that wants others too."""
        if wanted := models_of(self.chain):
            raise PromptError(
                f"{self.strategy} asks the model {wanted[0]!r}, and around a model it has that one alone; "
                "leave out `model`, or give the chain to a gateway's route"
            )
        return ChainChat(self.chain, chat)


def chain_way(text: str, *, allow_code: bool = False) -> ChainWay:
    """`FILE` is called what the chain calls itself, `NAME=FILE` is called NAME. Raises PromptError."""
    name, equals, rest = text.partition("=")
    file = rest if equals else text
    chain = load_chain(Path(file).expanduser(), allow_code=allow_code)
    name = name.strip() if equals else chain.name
    if not name or ":" in name:
        raise RecipeError(f"{name!r} is no name for the chain {file}; write NAME={file}, the name without colons")
    return ChainWay(name=name, strategy=file, chain=chain)


def way(text: str) -> Way:
    """`cot+self-consistency:n=8` is called cot+self-consistency; `careful=cot` is called careful."""
    name, equals, rest = text.partition("=")
    if equals and ":" not in name:
        return Way(name=name.strip(), strategy=rest)
    return Way(name="+".join(part.partition(":")[0] for part in text.split("+")), strategy=text)


class StrategyShelf(Shelf):
    """A shelf whose models are offered with each of the ways too, where they were tuned to answer. Those answer conversations
    alone. Raises RecipeError for two ways of one name, and what strategies raise."""

    def __init__(
        self,
        sources: Sequence[ModelSource],
        load: Callable[[ModelSource], ServedModel],
        ways: Sequence[Way | ChainWay],
        deltas: Lookup | None = None,
    ) -> None:
        super().__init__(sources, load, deltas)
        names = [one.name for one in ways]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise RecipeError(f"two strategies are called {twice!r}; give one another name, as in other=…")
        self._bases: dict[str, ModelSource] = {}
        self._chats: dict[str, AsyncChat] = {}
        self._kinds: dict[str, str] = {}
        for source in sources:
            for one in ways if source.instruction_tuned is not False else ():
                self._add(source, one)
        if not self._bases:
            raise RecipeError(
                "--strategy and --chain are for models that were tuned to answer, and none of these was; leave it out"
            )

    def _add(self, source: ModelSource, one: Way | ChainWay) -> None:
        name = f"{source.id}:{one.name}"
        if name in self.sources:
            raise RecipeError(
                f"{name} is a model already; give the strategy or chain another name, as in other={one.strategy}"
            )
        self._bases[name] = source
        self._kinds[name] = "chain" if isinstance(one, ChainWay) else "strategy"
        self._chats[name] = one.around(LocalPartner(partial(self.model, source.id), name))

    @property
    def offered(self) -> Mapping[str, ModelSource]:
        ways = {
            name: dataclasses.replace(source, id=name, base=source.id, delta=None, lazy=True)
            for name, source in self._bases.items()
        }
        return {**super().offered, **ways}

    def source(self, model_id: str) -> ModelSource:
        if model_id in self._bases:
            raise ApiError(
                400,
                f"{model_id!r} is a {self._kinds[model_id]} around {self._bases[model_id].id!r}, which answers /v1/chat/completions alone",
                param="model",
                code="unsupported_parameter",
            )
        return super().source(model_id)

    def route(self, model_id: str, key: str) -> AsyncChat | None:
        if model_id not in self._chats:
            return super().route(model_id, key)
        self.require_open()
        return self._chats[model_id]

    def found(self, model_id: str) -> ServedModel | None:
        base = self._bases.get(model_id)
        return super().found(model_id if base is None else base.id)
