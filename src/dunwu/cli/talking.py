"""`dunwu chat` and `dunwu generate`."""

import sys
from collections.abc import Generator as Steps
from collections.abc import Iterable, Sequence
from pathlib import Path

from dunwu.build.home import Home
from dunwu.chat.local import LocalChat
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat, Finish, Piece
from dunwu.chat.terminal import converse
from dunwu.core.devices import prepare_cpu
from dunwu.core.errors import ModelError, RecipeError
from dunwu.core.records import Message
from dunwu.core.screen import harmless
from dunwu.delta.finding import find
from dunwu.delta.library import default_library
from dunwu.infer.constrain import Constraint
from dunwu.model import fetch
from dunwu.model.fetch import is_hub_name
from dunwu.prompt.strategies.registry import Help
from dunwu.prompt.strategies.registry import strategy as strategy_around


def chat(
    model: str,
    *,
    delta: str | None = None,
    registry: Path | None = None,
    any_base: bool = False,
    system: str | None,
    temperature: float,
    seed: int | None,
    max_tokens: int,
    strategy: str | None = None,
) -> None:
    """Talk in the terminal."""
    partner = load(model, delta, registry=registry, any_base=any_base)
    asked = partner if strategy is None else _with_strategy(strategy, partner, model)
    prompt = partner.system_prompt if system is None else system
    converse(asked, system=prompt, temperature=temperature, seed=seed, max_tokens=max_tokens, read=input)


def generate(
    model: str,
    prompt: str,
    *,
    delta: str | None = None,
    registry: Path | None = None,
    any_base: bool = False,
    system: str | None,
    raw: bool,
    schema: Path | None = None,
    regex: str | None = None,
    choice: Sequence[str] | None = None,
    beams: int | None = None,
    temperature: float,
    seed: int | None,
    max_tokens: int,
    strategy: str | None = None,
) -> None:
    """Print an answer as it is written, or a continuation; what a model says is made harmless to a terminal."""
    constraint = _constraint(schema, regex, choice)
    if strategy is not None and (raw or constraint is not None or beams is not None):
        raise RecipeError(
            f"--strategy {strategy} answers in words; leave it out, or --raw, --schema, --regex, --choice and --beams"
        )
    temperature = temperature if beams is None else 0.0  # a search draws nothing
    partner = load(model, delta, registry=registry, any_base=any_base)
    text = sys.stdin.read() if prompt == "-" else prompt
    asked = partner if strategy is None else _with_strategy(strategy, partner, model)
    if raw or partner.instruction_tuned is False:
        if not raw:
            print("(This model was not trained to chat: it continues the text.)", file=sys.stderr)
        if constraint is None:
            print(harmless(text), end="")
        steps = partner.continue_text(
            text, max_tokens=max_tokens, temperature=temperature, seed=seed, constraint=constraint, beams=beams
        )
    else:
        messages = _messages(text, partner.system_prompt if system is None else system)
        options = ChatOptions(max_tokens=max_tokens, temperature=temperature, seed=seed, beams=beams)
        pieces = (
            asked.pieces(messages, options)
            if constraint is None
            else partner.pieces_within(constraint, messages, options)
        )
        steps = _texts(pieces)
    reason = _print(steps)
    if constraint is not None and reason != "stop":
        print("(Cut short: the answer is not complete; give more --max-tokens.)", file=sys.stderr)


def _aside(text: str) -> None:
    print(harmless(f"({text})"), file=sys.stderr)


def _with_strategy(text: str, partner: LocalChat, model: str) -> Chat:
    if partner.instruction_tuned is False:
        raise ModelError(f"{model} was not tuned to answer, it continues texts; leave out --strategy")
    return strategy_around(
        text, partner, Help(count_tokens=lambda one: len(partner.tokenizer.encode(one)), told=_aside)
    )


def _constraint(schema: Path | None, regex: str | None, choice: Sequence[str] | None) -> Constraint | None:
    """What the answer must be. Raises RecipeError for more than one bound, or a schema that cannot be read."""
    given = [name for name, bound in (("schema", schema), ("regex", regex), ("choice", choice)) if bound is not None]
    if len(given) > 1:
        raise RecipeError(f"--{' and --'.join(given)} are given together; an answer can be held to one of them")
    if schema is not None:
        return Constraint.json_schema(_schema_text(schema))
    if regex is not None:
        return Constraint.regex(regex)
    return None if choice is None else Constraint.choice(choice)


def _schema_text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"--schema {file} is not UTF-8; give a text file with a JSON schema") from error
    except OSError as error:
        raise RecipeError(
            f"--schema {file} cannot be read ({error.strerror}); give a file with a JSON schema"
        ) from error


def _messages(text: str, system: str) -> list[Message]:
    before = [Message(role="system", content=system)] if system else []
    return [*before, Message(role="user", content=text)]


def _texts(pieces: Iterable[Piece]) -> Steps[str, None, str]:
    """The texts of an answer; the generator's return value says why it ended."""
    for piece in pieces:
        if isinstance(piece, Finish):
            return piece.reason
        if piece.text:
            yield piece.text
    return "stop"


def _print(steps: Steps[str, None, str]) -> str:
    while True:
        try:
            print(harmless(next(steps)), end="", flush=True)
        except StopIteration as end:
            print()
            return end.value


def load(model: str, delta: str | None = None, *, registry: Path | None = None, any_base: bool = False) -> LocalChat:
    """The model of a home, of a Hugging Face folder, or of a hub, with a delta on it. Raises ModelError saying what is missing."""
    prepare_cpu()
    found = None if delta is None else find(delta, default_library(registry))
    return LocalChat.load(model_folder(model), delta=found, any_base=any_base)


def model_folder(name: str | Path) -> Path:
    """Where the weights lie for what a user named: a build's home, a model's folder, or owner/name on a hub."""
    path = Path(name).expanduser()
    home = Home(path)
    if home.exists():
        if not (home.model / "config.json").is_file():
            raise ModelError(f"{path} has no finished model yet; run `dunwu build {path}` until it ends")
        return home.model
    if not path.exists() and (path.parent.is_dir() or not is_hub_name(str(name))):
        raise ModelError(
            f"{path} does not exist; give a build's home (such as builds/NAME), a model's folder, or owner/name on a hub"
        )
    return fetch.model_folder(name)
