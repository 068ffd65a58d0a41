"""`dunwu chat` and `dunwu generate` with `--url`: a model behind an OpenAI-compatible endpoint."""

import contextlib
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from dunwu.chat.bridge import Blocking
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat
from dunwu.chat.remote import RemoteChat
from dunwu.chat.router import Retrying
from dunwu.chat.terminal import converse
from dunwu.core.errors import RecipeError
from dunwu.core.files import read_json
from dunwu.core.records import Message
from dunwu.core.screen import harmless
from dunwu.prompt.strategies.registry import strategy as strategy_around


def chat(
    model: str,
    url: str,
    *,
    key_env: str,
    strategy: str | None,
    system: str | None,
    temperature: float,
    seed: int | None,
    max_tokens: int,
) -> None:
    """Talk in the terminal."""
    with endpoint(model, url, key_env) as partner:
        converse(
            with_strategy(strategy, partner),
            system=system or "",
            temperature=temperature,
            seed=seed,
            max_tokens=max_tokens,
            read=input,
        )


def generate(
    model: str,
    url: str,
    prompt: str,
    *,
    key_env: str,
    refused: Mapping[str, bool],
    strategy: str | None,
    system: str | None,
    schema: Path | None,
    temperature: float,
    seed: int | None,
    max_tokens: int,
) -> None:
    """Print an answer as it is written, made harmless to a terminal. `refused`: options that no endpoint has, and whether they
    were given."""
    if given := [name for name, there in refused.items() if there]:
        raise RecipeError(f"{given[0]} is for a model of this machine; leave out {given[0]} or --url")
    text = sys.stdin.read() if prompt == "-" else prompt
    messages = [Message(role="system", content=system)] if system else []
    messages.append(Message(role="user", content=text))
    options = ChatOptions(max_tokens=max_tokens, temperature=temperature, seed=seed, schema=_schema(schema))
    with endpoint(model, url, key_env) as partner:
        for piece in with_strategy(strategy, partner).stream(messages, options):
            print(harmless(piece), end="", flush=True)
        print()


def _schema(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    schema = read_json(file)
    if not isinstance(schema, dict):
        raise RecipeError(f"--schema {file} holds no JSON object; give a JSON schema")
    return schema


def with_strategy(text: str | None, chat: Chat) -> Chat:
    """The chat, asked as the strategy says. Raises RecipeError for one that there is not."""
    return chat if text is None else strategy_around(text, chat)


@contextlib.contextmanager
def endpoint(model: str, url: str, key_env: str) -> Generator[Chat]:
    """Raises MissingExtraError without the package `openai`."""
    partner = Blocking(Retrying(RemoteChat(url, model, key_variable=key_env)))
    try:
        yield partner
    finally:
        partner.close()
