"""Who is evaluated: a model of this machine or behind a URL, as plain text and as a chat, both with a memory."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from dunwu.build.home import Home
from dunwu.chat.bridge import Blocking
from dunwu.chat.local import LocalChat
from dunwu.chat.local_text import LocalText
from dunwu.chat.protocol import Chat
from dunwu.chat.remote import RemoteChat
from dunwu.chat.remote_text import RemoteText
from dunwu.chat.router import Retrying
from dunwu.chat.text_model import TextModel
from dunwu.cli.evaluating_options import Evaluating
from dunwu.cli.talking import model_folder
from dunwu.core.devices import prepare_cpu
from dunwu.core.files import read_json
from dunwu.delta.finding import Found, find
from dunwu.delta.library import default_library
from dunwu.evaluate.identity import endpoint_identity, model_identity
from dunwu.prompt.demonstrations.base import Embed

AT_A_TIME = 16  # questions to an endpoint, which are what a failure costs


@dataclass(frozen=True, kw_only=True)
class Partner:
    """`speaks`: whether it was trained to chat; None where nobody says. `is_here`: on this machine. `batch`: how many questions at a time, where that matters."""

    name: str
    identity: str
    text: TextModel
    chat: Chat
    speaks: bool | None
    is_here: bool = True
    system_prompt: str = ""
    batch: int | None = None
    embed: Embed | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """A model that was found and not opened yet. `home`: the build that it came from, if any."""

    name: str
    identity: str
    folder: Path | None = None
    delta: Found | None = None
    home: Home | None = None


def find_model(model: str, given: Evaluating) -> Place:
    """Where the model is, and its identity: enough to say what was answered before. `HOME:DELTA` names a delta too.

    Raises ModelError where there is none.
    """
    if given.url is not None:
        name = f"{model}:{given.delta}" if given.delta else model
        return Place(name=name, identity=endpoint_identity(given.url, name))
    word, delta = model, given.delta
    if delta is None and ":" in model and not Path(model).expanduser().exists():
        word, _, delta = model.rpartition(":")
    folder = model_folder(word)
    found = None if delta is None else find(delta, default_library(given.registry))
    facts = read_json(folder / "dunwu.json") if (folder / "dunwu.json").is_file() else {}
    name = str(facts.get("name") or folder.resolve().name)
    home = next((home for home in map(Home, (folder, folder.parent)) if home.exists()), None)
    return Place(
        name=name if found is None else f"{name}:{found.name}",
        identity=model_identity(folder, None if found is None else found.folder),
        folder=folder,
        delta=found,
        home=home,
    )


@contextlib.contextmanager
def opened(place: Place, given: Evaluating) -> Generator[Partner]:
    """The model at work."""
    if given.url is not None:
        with _endpoint(place, given.url, given.key_env, given.timeout_s) as partner:
            yield partner
        return
    assert place.folder is not None, "a model of this machine has a folder"
    prepare_cpu()
    chat = LocalChat.load(place.folder, delta=place.delta, any_base=given.any_base)
    yield Partner(
        name=place.name,
        identity=place.identity,
        text=LocalText(chat.generator, name=place.name),
        chat=chat,
        speaks=chat.instruction_tuned if chat.tokenizer.chat_template else False,
        system_prompt=chat.system_prompt,
        embed=lambda texts: chat.generator.engine.embed(map(chat.tokenizer.encode, texts)).numpy(),
    )


@contextlib.contextmanager
def _endpoint(place: Place, url: str, key_env: str, timeout_s: float) -> Generator[Partner]:
    chat = Blocking(Retrying(RemoteChat(url, place.name, key_variable=key_env, timeout_s=timeout_s)))
    try:
        yield Partner(
            name=place.name,
            identity=place.identity,
            text=RemoteText(url, place.name, key_variable=key_env, timeout_s=timeout_s),
            chat=chat,
            speaks=True,
            is_here=False,
            batch=AT_A_TIME,
        )
    finally:
        chat.close()
