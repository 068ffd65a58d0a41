"""Partners behind the API: the file becomes chats, and each key pays from its budget."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, Metric

from dunwu.chat.ledger import Budget, Budgeted, Counted, Ledger, Price
from dunwu.chat.protocol import AsyncChat
from dunwu.chat.remote import KEY_VARIABLE, RemoteChat
from dunwu.chat.router import Cascade, Fallback, Judge, MeanLogprob, Retrying, SelfConsistency
from dunwu.core.errors import RecipeError
from dunwu.core.templates import nearest_name
from dunwu.core.units import parse_duration
from dunwu.prompt.chains.files import load_chain
from dunwu.prompt.chains.served import ChainChat, models_of
from dunwu.prompt.strategies.registry import async_strategy
from dunwu.serve.errors import ApiError
from dunwu.serve.gateway_config import ANYONE, BudgetSection, GatewayConfig, PartnerSection, RouteSection, SureSection
from dunwu.serve.local_partner import LocalPartner
from dunwu.serve.models import ServedModel, Shelf
from dunwu.serve.source import ModelSource

_COUNTED = {
    "asked": "Answers that a partner was asked for.",
    "failed": "Of these, answers that failed.",
    "left": "Of these, answers that nobody waited for any more.",
    "prompt_tokens": "Tokens of prompts that a partner read.",
    "completion_tokens": "Tokens that a partner wrote.",
    "cost": "What a partner's answers cost, in the currency of its prices.",
    "whole_s": "Seconds that a partner's answers took, summed.",
}


@dataclass(slots=True, kw_only=True)
class Purse:
    """Budgets by key, made when a key is first seen."""

    sections: Mapping[str, BudgetSection]
    folder: Path | None
    _budgets: dict[str, Budget] = field(default_factory=dict)

    def budget(self, key: str) -> Budget | None:
        """The budget of a key ("" for who comes without one); None where there is no limit."""
        section = self.sections.get(key) or self.sections.get(ANYONE)
        if section is None:
            return None
        if key not in self._budgets:
            name = key or "everyone"
            path = None if self.folder is None else self.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.json"
            self._budgets[key] = Budget(name, section.limit, period=section.period, path=path)
        return self._budgets[key]


class RoutedShelf(Shelf):
    """Models that clients do not see, and routes that they ask for instead. `ledger` counts each partner."""

    def __init__(
        self,
        config: GatewayConfig,
        sources: Sequence[ModelSource],
        load: Callable[[ModelSource], ServedModel],
        *,
        folder: Path,
        remote: Callable[..., AsyncChat] = RemoteChat,
    ) -> None:
        """`sources`: the partners of this machine, by their names. `folder`: that of the file. Raises RecipeError, and
        MissingExtraError for remote partners without the package `openai`."""
        super().__init__(sources, load)
        self.ledger = Ledger()
        self._routes = _routes(
            config, {name: self._partner(name, one, remote) for name, one in config.partners.items()}, folder
        )
        self._purse = Purse(sections=config.budgets, folder=_made(config, folder))

    @property
    def full(self) -> bool:
        """Never: where a partner is busy, its route says who comes next."""
        return False

    @property
    def offered(self) -> Mapping[str, ModelSource]:
        return {name: ModelSource(id=name, folder=Path(), instruction_tuned=True) for name in self._routes}

    def source(self, model_id: str) -> ModelSource:
        if model_id in self._routes:
            raise ApiError(
                400,
                f"{model_id!r} is a route of partners, which answers /v1/chat/completions alone",
                param="model",
                code="unsupported_parameter",
            )
        raise self.unknown(model_id)

    def route(self, model_id: str, key: str) -> AsyncChat:
        if model_id not in self._routes:
            raise self.unknown(model_id)
        self.require_open()
        budget = self._purse.budget(key)
        return self._routes[model_id] if budget is None else Budgeted(self._routes[model_id], budget)

    async def partner_model(self, name: str) -> ServedModel:
        """The model of a local partner, read now if it was not yet. Raises ApiError."""
        return await self._get(self.sources[name])

    def collect(self) -> Iterator[Metric]:
        """The ledger, for Prometheus."""
        for what, meaning in _COUNTED.items():
            family = CounterMetricFamily(f"dunwu_partner_{what}", meaning, labels=["partner"])
            for name, tally in self.ledger.tallies.items():
                family.add_metric([name], getattr(tally, what))
            yield family

    def _partner(self, name: str, section: PartnerSection, remote: Callable[..., AsyncChat]) -> AsyncChat:
        price = None if section.price is None else Price(**section.price.model_dump())
        chat = (
            LocalPartner(partial(self.partner_model, name), name)
            if section.url is None
            else _remote(section, section.url, remote)
        )
        return Counted(chat, name, self.ledger, price=price)


def _routes(config: GatewayConfig, partners: Mapping[str, AsyncChat], folder: Path) -> dict[str, AsyncChat]:
    routes: dict[str, AsyncChat] = {}

    def inside(name: str) -> AsyncChat:
        return partners[name] if name in partners else made(name)

    def chained(name: str, section: RouteSection, chat: AsyncChat) -> AsyncChat:
        chain = load_chain(folder / Path(section.chain or "").expanduser(), allow_code=section.allow_code)
        others = models_of(chain)
        for one in others:
            if one not in partners and one not in config.routes:
                known = [*partners, *config.routes]
                raise RecipeError(f"{section.chain} asks {one!r}, which there is not; {nearest_name(one, known)}")
            if one not in partners and _leads_to(config, one, name):
                raise RecipeError(
                    f"{section.chain} asks the route {one!r}, which is a chain itself or leads to {name!r}; let it ask a partner"
                )
        return ChainChat(chain, {"": chat, **{one: inside(one) for one in others}}, name=name)

    def made(name: str) -> AsyncChat:
        if name not in routes:
            section = config.routes[name]
            chats = [inside(one) for one in section.partners]
            if section.sure is not None:
                routes[name] = Cascade(chats, _judge(section.sure))
            else:
                routes[name] = Fallback(chats) if section.fallback else chats[0]
            if section.chain is not None:
                routes[name] = chained(name, section, routes[name])
            if section.strategy:
                routes[name] = async_strategy(section.strategy, routes[name])
        return routes[name]

    return {name: made(name) for name in config.routes}


def _leads_to(config: GatewayConfig, name: str, end: str) -> bool:
    """Whether a route is another, leads to it, or has a chain of its own, which could."""
    section = config.routes.get(name)
    if section is None:
        return False
    return name == end or section.chain is not None or any(_leads_to(config, one, end) for one in section.partners)


def _made(config: GatewayConfig, folder: Path) -> Path | None:
    if config.ledger is None:
        return None
    spent = folder / config.ledger
    try:
        spent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"ledger={config.ledger}: {spent} cannot be made ({error.strerror}); name another folder"
        ) from error
    return spent


def _remote(section: PartnerSection, url: str, remote: Callable[..., AsyncChat]) -> AsyncChat:
    chat = remote(
        url,
        section.model,
        key_variable=section.key_env or KEY_VARIABLE,
        timeout_s=parse_duration(section.timeout),
        most_at_a_time=section.most_at_a_time,
        extra=section.extra,
    )
    return Retrying(chat, attempts=section.attempts) if section.attempts > 1 else chat


def _judge(section: SureSection) -> Judge:
    if section.mean_logprob is not None:
        return MeanLogprob(section.mean_logprob)
    assert section.samples is not None
    return SelfConsistency(samples=section.samples, agree=section.agree, temperature=section.temperature)
