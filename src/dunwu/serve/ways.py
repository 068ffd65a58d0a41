"""Models with a prompt strategy around them, offered beside the models themselves as MODEL:NAME."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dunwu.chat.protocol import AsyncChat
from dunwu.core.errors import RecipeError
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
        ways: Sequence[Way],
        deltas: Lookup | None = None,
    ) -> None:
        super().__init__(sources, load, deltas)
        names = [one.name for one in ways]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise RecipeError(f"two strategies are called {twice!r}; give one another name, as in other=…")
        self._bases: dict[str, ModelSource] = {}
        self._chats: dict[str, AsyncChat] = {}
        for source in sources:
            for one in ways if source.instruction_tuned is not False else ():
                self._add(source, one)
        if not self._bases:
            raise RecipeError("--strategy is for models that were tuned to answer, and none of these was; leave it out")

    def _add(self, source: ModelSource, one: Way) -> None:
        name = f"{source.id}:{one.name}"
        if name in self.sources:
            raise RecipeError(f"{name} is a model already; give the strategy another name, as in other={one.strategy}")
        self._bases[name] = source
        self._chats[name] = async_strategy(one.strategy, LocalPartner(partial(self.model, source.id), name))

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
                f"{model_id!r} is a strategy around {self._bases[model_id].id!r}, which answers /v1/chat/completions alone",
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
