"""`dunwu chat` and `dunwu generate`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from dunwu.build.home import Home
from dunwu.chat.local import LocalChat
from dunwu.chat.terminal import converse
from dunwu.core.devices import prepare_cpu
from dunwu.core.errors import ModelError
from dunwu.core.records import Message
from dunwu.core.screen import harmless
from dunwu.model import fetch
from dunwu.model.fetch import is_hub_name


def chat(model: str, *, system: str | None, temperature: float, seed: int | None, max_tokens: int) -> None:
    """Talk in the terminal."""
    partner = load(model)
    prompt = partner.system_prompt if system is None else system
    converse(partner, system=prompt, temperature=temperature, seed=seed, max_tokens=max_tokens, read=input)


def generate(
    model: str, prompt: str, *, system: str | None, raw: bool, temperature: float, seed: int | None, max_tokens: int
) -> None:
    """Print an answer as it is written, or a continuation; what a model says is made harmless to a terminal."""
    partner = load(model)
    text = sys.stdin.read() if prompt == "-" else prompt
    answers = not raw and partner.instruction_tuned is not False
    if answers:
        instructions = partner.system_prompt if system is None else system
        pieces = _answer(partner, text, instructions, temperature, seed, max_tokens)
    else:
        if not raw:
            print("(This model was not trained to chat: it continues the text.)", file=sys.stderr)
        pieces = partner.continue_text(text, max_tokens=max_tokens, temperature=temperature, seed=seed)
        print(harmless(text), end="")
    for piece in pieces:
        print(harmless(piece), end="", flush=True)
    print()


def _answer(
    partner: LocalChat, text: str, system: str, temperature: float, seed: int | None, max_tokens: int
) -> Iterator[str]:
    messages = [Message(role="system", content=system)] if system else []
    messages.append(Message(role="user", content=text))
    return partner.stream(messages, max_tokens=max_tokens, temperature=temperature, seed=seed)


def load(model: str) -> LocalChat:
    """The model of a home, of a Hugging Face folder, or of a hub. Raises ModelError saying what is missing."""
    prepare_cpu()
    return LocalChat.load(model_folder(model))


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
