"""Which models are offered, when they are read, and how the server begins and ends."""

import asyncio
import contextlib
import dataclasses
import socket
import threading

import pytest

from dunwu.build.home import Figures, Home, StageRecord, write_record
from dunwu.cli import serving
from dunwu.core.errors import ModelError, RecipeError
from dunwu.core.files import write_json
from dunwu.serve.errors import ApiError
from dunwu.serve.models import Shelf, load_served_model
from dunwu.serve.run import bind
from dunwu.serve.settings import ServeSettings
from dunwu.serve.source import ModelSource
from tests.chat.test_open import model_home
from tests.tokenizer import foreign

from .live import OPTIONS, make_folder, running, send, start, wait_until


def make_home(folder):
    """A finished build of two trained stages, as far as a server looks at it."""
    home = Home(folder)
    home.stages.mkdir(parents=True)
    home.recipe_file.write_text("name: demo\n")
    make_folder(home.model, name="demo", instruction_tuned=True, system_prompt="Be kind.")
    listed = {}
    for stage in ("corpus", "pretrain", "sft"):
        stage_folder = home.stage_folder(stage, "0" * 64)
        stage_folder.mkdir()
        if stage != "corpus":
            make_folder(stage_folder)
        facts = {"resolved": {}, "predicted": Figures(), "actual": Figures(), "facts": {}, "files": {}, "machine": {}}
        times = {"started": "", "finished": "", "dunwu": ""}
        write_record(stage_folder, StageRecord(stage=stage, hash="0" * 64, identity={}, **facts, **times))
        listed[stage] = stage_folder.name
    write_json(home.build_file, {"stages": listed})
    return home


def test_a_home_offers_its_model_and_its_earlier_stages(tmp_path):
    home = make_home(tmp_path / "build")
    finished, *stages = serving.sources(str(home.folder))
    assert (finished.id, finished.folder, finished.system_prompt, finished.lazy) == (
        "demo",
        home.model,
        "Be kind.",
        False,
    )
    assert [(one.id, one.stage, one.instruction_tuned, one.lazy) for one in stages] == [
        ("demo:pretrain", "pretrain", False, True),
    ]
    renamed = list(serving.sources(f"mine={home.folder}"))
    assert [one.id for one in renamed] == ["mine", "mine:pretrain"]
    (stage,) = serving.sources(str(stages[0].folder))
    assert stage.id == stages[0].folder.name


@pytest.mark.parametrize("word", ["nowhere/at/all", "=x", "name="])
def test_a_word_that_names_no_model_is_an_error(word):
    with pytest.raises((ModelError, RecipeError)):
        list(serving.sources(word))


def test_two_models_of_one_name_are_an_error(folder):
    with pytest.raises(RecipeError, match="two models are called 'a'"):
        Shelf([ModelSource(id="a", folder=folder)] * 2, lambda _: pytest.fail("read"))


def test_a_lazy_model_is_read_once_when_it_is_first_asked_for(folder):
    read = []

    def load(source):
        read.append(source.id)
        return load_served_model(source, OPTIONS)

    async def run():
        shelf = Shelf([ModelSource(id="a", folder=folder, lazy=True), ModelSource(id="b", folder=folder)], load)
        with pytest.raises(ApiError, match="still being read"):
            await shelf.model("b")
        await shelf.start()
        assert read == ["b"]
        one, two = await asyncio.gather(shelf.model("a"), shelf.model("a"))
        assert one is two
        assert read == ["b", "a"]
        shelf.drain()
        with pytest.raises(ApiError, match="closing"):
            await shelf.model("a")
        await shelf.close()

    asyncio.run(run())


def test_a_busy_model_turns_away_its_own_requests_alone(folder):
    sources = [ModelSource(id=name, folder=folder) for name in ("busy", "idle")]
    options = dataclasses.replace(OPTIONS, max_sequences=1, max_waiting=1)
    with running(*sources, options=options) as live:
        long = {"model": "busy", "prompt": "a cat", "max_tokens": 1900, "ignore_eos": True, "n": 2}
        with contextlib.ExitStack() as held:
            held.enter_context(start(live, "/v1/completions", long))
            busy = next(model for model in live.shelf.loaded if model.id == "busy")
            wait_until(lambda: busy.engine.full, "it never came in")
            for path in ("completions", "chat/completions", "responses", "embeddings"):
                facts = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "input": "a"}
                field = {"completions": "prompt", "chat/completions": "messages"}.get(path, "input")
                asked = {field: facts[field]} | ({"max_tokens": 1} if "completions" in path else {})
                refused = send(f"{live.api}/{path}", {"model": "busy", **asked})
                assert (refused.status, refused.json["error"]["code"]) == (429, "queue_full")
                assert int(refused.headers["retry-after"]) > 0
            assert send(f"{live.api}/completions", {"model": "idle", "prompt": "a", "max_tokens": 1}).status == 200


def test_a_server_says_503_until_its_model_is_read(folder):
    go_on = threading.Event()

    def load(source):
        assert go_on.wait(20)
        return load_served_model(source, OPTIONS)

    with running(ModelSource(id="a", folder=folder), load=load, wait=False) as live:
        assert send(f"{live.url}/health").status == 200
        ready, asked = send(f"{live.url}/ready"), send(f"{live.api}/completions", {"model": "a", "prompt": "x"})
        for reply in (ready, asked):
            assert (reply.status, reply.json["error"]["code"]) == (503, "not_ready")
            assert int(reply.headers["retry-after"]) > 0
        go_on.set()
        live.wait()
        assert send(f"{live.url}/ready").status == 200


def test_an_address_that_is_taken_is_a_clear_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RecipeError, match=r"cannot listen at 127\.0\.0\.1:\d+: Address already in use"):
            bind(ServeSettings(port=taken.getsockname()[1]))


def test_others_are_let_in_only_with_keys(tmp_path):
    with pytest.raises(RecipeError, match=r"host=0\.0\.0\.0 can be reached by others"):
        ServeSettings(host="0.0.0.0")
    assert not ServeSettings(host="0.0.0.0", api_keys=tmp_path / "keys.json").is_loopback
    assert ServeSettings(host="::1").is_loopback


def test_models_are_listed_with_what_is_known_of_them(live):
    listed = {one["id"]: one for one in send(f"{live.api}/models").json["data"]}
    assert list(listed) == ["kitten", "kitten:pretrain"]
    assert listed["kitten"]["max_model_len"] == 2048
    assert listed["kitten"]["chat"] is True
    assert listed["kitten:pretrain"]["stage"] == "pretrain"
    assert send(f"{live.api}/models/kitten:pretrain").json["id"] == "kitten:pretrain"
    missing = send(f"{live.api}/models/dog")
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")


def test_a_model_without_a_template_names_the_way_to_ask_it(tmp_path):
    folder = model_home(tmp_path, foreign.gpt2)
    with running(ModelSource(id="base", folder=folder)) as live:
        asked = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
        refused = send(f"{live.api}/chat/completions", asked)
        assert (refused.status, refused.json["error"]["code"]) == (400, "no_chat_template")
        assert "/v1/completions" in refused.json["error"]["message"]
        assert send(f"{live.api}/completions", {"model": "base", "prompt": "x"}).status == 200


def test_the_page_and_the_description_are_served(live):
    assert send(live.url).headers.get_content_type() == "text/html"
    paths = send(f"{live.url}/openapi.json").json["paths"]
    assert {"/v1/chat/completions", "/v1/responses", "/tokenize", "/metrics"} <= set(paths)
    for operations in paths.values():
        for operation in operations.values():
            assert "422" not in operation["responses"]


def test_monitors_may_ask_for_heads_alone(live):
    for path in ("/", "/health", "/ready"):
        head = send(live.url + path, method="HEAD")
        assert (head.status, head.body) == (200, b"")
    nothing = send(f"{live.url}/page/nothing.js")
    assert nothing.status == 404
    assert "/page/nothing.js" in nothing.json["error"]["message"]


def test_guesses_and_fewer_bits_are_options_of_the_server(folder):
    asked = {"model": "a", "prompt": "a cat sat. a cat sat. a cat", "max_tokens": 12, "temperature": 0}

    def said(**options):
        with running(ModelSource(id="a", folder=folder), options=dataclasses.replace(OPTIONS, **options)) as live:
            return send(f"{live.api}/completions", asked).json["choices"][0]["text"]

    plain = said()
    assert said(lookup=True) == plain
    assert said(draft=folder) == plain
    assert len(said(weights="int8", cache="int8")) > 0
