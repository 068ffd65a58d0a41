"""Many deltas over one model: each request says what its own merged model would, and deltas come and go under load."""

import asyncio
import contextlib
import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from dunwu.cli import run, serving
from dunwu.cli.serving import Over
from dunwu.core.deltas import (
    BitFitSpec,
    DoraSpec,
    HoulsbySpec,
    Ia3Spec,
    LoraSpec,
    NormsSpec,
    ParallelSpec,
    RsLoraSpec,
    VeraSpec,
)
from dunwu.core.errors import ModelError, RecipeError
from dunwu.delta.library import Library, new_entry
from dunwu.delta.registry import attach
from dunwu.delta.storing import PEFT_WEIGHTS, load_delta, save_delta
from dunwu.infer.engine import Engine
from dunwu.infer.events import TokenEvent
from dunwu.model.hub import load_model, read_tensors, write_tensors
from dunwu.serve.answers import token_text
from dunwu.serve.deltas import EveryDelta, chosen
from dunwu.serve.models import Shelf, load_served_model
from dunwu.serve.source import ModelSource
from dunwu.tokenizer.load import load_tokenizer
from tests.delta.helpers import shake
from tests.infer.test_engine import ids_of, request

from .live import OPTIONS, make_folder, running, send, start, wait_until

SPECS = {
    "one": LoraSpec(r=2, targets=("q_proj", "v_proj")),
    "two": LoraSpec(r=3, targets=("o_proj", "down_proj")),
    "three": RsLoraSpec(r=4),
    "four": LoraSpec(r=1, alpha=8, targets=("mlp.*",)),
    "five": LoraSpec(r=2, targets=("model.layers.0.*",)),
    "six": LoraSpec(r=4, alpha=32, targets=("k_proj", "v_proj")),
    "seven": LoraSpec(r=8),
    "eight": Ia3Spec(),
    "nine": HoulsbySpec(bottleneck=4),
    "ten": ParallelSpec(bottleneck=4),
    "eleven": BitFitSpec(),
    "twelve": DoraSpec(r=2),
    "thirteen": VeraSpec(r=8),
}
SIZES = {"eight": 30.0, "eleven": 3.0}
PROMPT = "a cat sat. a cat sat. a cat sat. a cat sat. a cat"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, folder):
    """A delta of each kind over the model in `folder`."""
    place = tmp_path_factory.mktemp("adapters")
    for number, (name, spec) in enumerate(SPECS.items()):
        delta = shake(attach(load_model(folder), spec, seed=number), size=SIZES.get(name, 0.7), seed=number)
        save_delta(delta, place / name, base_name="kitten")
    return place


@pytest.fixture
def library(tmp_path, adapters, folder):
    library = Library(tmp_path / "deltas")
    for name in SPECS:
        add(library, adapters, name)
    return library


def add(library, adapters, name, source=None):
    library.add(adapters / (source or name), new_entry(name, adapters / (source or name)))


@pytest.fixture(scope="module")
def merged(adapters, folder):
    """What the model writes after the prompt into which a delta is merged, or that has it alone; "" is the base."""
    tokenizer = load_tokenizer(folder)
    ids = [*tokenizer.start_ids, *tokenizer.encode(PROMPT)]
    texts = {}
    for name in ("", *SPECS):
        model = load_model(folder).requires_grad_(False).eval()
        if name:
            delta = load_delta(adapters / name, model)
            if delta.mergeable:
                delta.absorb()
        written = ids_of(Engine(model, tokenizer, cache_bytes=4 << 20).run([request(ids, max_tokens=24)])[0])[0]
        texts[name] = [token_text(tokenizer, number) for number in written]
    return texts


def ask(live, model, **more):
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": 24,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 0,
        **more,
    }
    return send(f"{live.api}/completions", body)


def says(live, model, **more):
    reply = ask(live, model, **more)
    assert reply.status == 200, reply.body
    assert reply.json["model"] == model
    return reply.json["choices"][0]["logprobs"]["tokens"]


def base_source(folder, **more):
    return ModelSource(id="kitten", folder=folder, instruction_tuned=True, system_prompt="Be kind.", **more)


def test_deltas_of_all_kinds_in_one_batch_say_what_their_merged_models_say(folder, library, merged):
    assert len(set(map(tuple, merged.values()))) == 1 + len(SPECS)  # each makes a difference
    base = base_source(folder)
    sources = [base, *chosen(list(SPECS), [base], library)]
    with running(*sources) as live, ThreadPoolExecutor(1 + len(SPECS)) as clients:
        models = ["kitten", *(f"kitten:{name}" for name in SPECS)]
        for _ in range(2):  # the second time what was read before is found again, each delta's own
            for model, text in zip(models, clients.map(partial(says, live), models), strict=True):
                assert text == merged[model.partition(":")[2]], model
        stats = live.shelf.stats()
        assert stats.hit_tokens > 0
        assert stats.steps < 2 * len(SPECS) * 24  # they were written together
        counts = send(f"{live.url}/metrics").body.decode()
        assert 'dunwu_model_requests_total{model="kitten:three"} 2.0' in counts
        assert 'dunwu_model_completion_tokens_total{model="kitten"} 48.0' in counts


def test_a_delta_answers_everywhere_and_is_listed(folder, library):
    base = base_source(folder)
    entry = library.entry("one")
    tuned = dataclasses.replace(
        chosen(["one"], [base], library)[0].delta, entry=entry.model_copy(update={"system_prompt": "Be short."})
    )
    source = dataclasses.replace(chosen(["one"], [base], library)[0], delta=tuned, **tuned.manner)
    with running(base, source) as live:
        listed = {one["id"]: one for one in send(f"{live.api}/models").json["data"]}
        assert [(one["id"], one["parent"], one["loaded"]) for one in listed.values()] == [
            ("kitten", None, True),
            ("kitten:one", "kitten", True),
        ]
        assert listed["kitten:one"]["system_prompt"] == "Be short."
        assert send(f"{live.api}/models/kitten:one").json["max_model_len"] == 2048
        model = {"model": "kitten:one"}
        chat = model | {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0}
        assert send(f"{live.api}/chat/completions", chat).json["model"] == "kitten:one"
        stream = send(f"{live.api}/chat/completions", chat | {"stream": True}).body.decode()
        assert '"model":"kitten:one"' in stream
        reply = send(f"{live.api}/responses", model | {"input": "hello", "max_output_tokens": 4})
        assert (reply.status, reply.json["model"]) == (200, "kitten:one")
        vectors = [
            send(f"{live.api}/embeddings", {"model": name, "input": "hello"}).json["data"][0]["embedding"]
            for name in ("kitten", "kitten:one")
        ]
        assert max(abs(a - b) for a, b in zip(*vectors, strict=True)) > 1e-3
        assert send(f"{live.url}/tokenize", model | {"prompt": "hello"}).status == 200


def test_an_unknown_delta_is_a_404_with_the_names(folder, library):
    base = base_source(folder)
    with running(base, *chosen(["one", "two"], [base], library)) as live:
        for wrong in ("kitten:nine", "kitten:../one", "kitten:"):
            reply = ask(live, wrong)
            assert reply.status == 404
            error = reply.json["error"]
            assert (error["code"], error["param"], error["type"]) == (
                "model_not_found",
                "model",
                "invalid_request_error",
            )
            assert error["message"].endswith("has no delta " + repr(wrong.partition(":")[2]) + "; it has: one, two")
        assert "there are: kitten, kitten:one" in ask(live, "dog:one").json["error"]["message"]


def adapters_of(live):
    async def names():
        return await live.shelf.loaded[0].engine.call(lambda engine: engine._runner.adapters.names)

    return asyncio.run(names())


def test_deltas_come_and_go_while_others_are_answered(folder, library, adapters, merged, tmp_path):
    base = base_source(folder)
    for name in list(SPECS)[1:]:
        library.remove(name)
    with running(base, deltas=EveryDelta(library, [base])) as live, contextlib.ExitStack() as held:
        listed = {one["id"]: one["loaded"] for one in send(f"{live.api}/models").json["data"]}
        assert listed == {"kitten:one": False, "kitten": True}
        assert adapters_of(live) == []  # read when it is first asked for
        assert says(live, "kitten:one") == merged["one"]
        long = {"model": "kitten:one", "prompt": "a cat", "max_tokens": 1900, "ignore_eos": True}
        slow = held.enter_context(start(live, "/v1/completions", long))
        wait_until(lambda: live.shelf.stats().running == 1, "it never came in")
        assert ask(live, "kitten:two").status == 404
        add(library, adapters, "two")
        assert says(live, "kitten:two") == merged["two"]
        library.remove("one")
        gone = ask(live, "kitten:one")
        assert (gone.status, "it has: two" in gone.json["error"]["message"]) == (404, True)
        assert says(live, "kitten") == merged[""]
        assert len(adapters_of(live)) == 2  # the long answer still needs the first one
        add(library, adapters, "one", source="three")  # another under the same name
        assert says(live, "kitten:one") == merged["three"]
        assert live.shelf.stats().running == 1
        slow.close()
        wait_until(lambda: live.shelf.stats().running == 0, "it was not cancelled")
        assert says(live, "kitten:two") == merged["two"]
        assert sorted(name.partition("@")[0] for name in adapters_of(live)) == ["kitten:one", "kitten:two"]


def test_a_delta_that_was_damaged_meanwhile_is_refused_and_the_rest_goes_on(folder, library, merged):
    base = base_source(folder)
    weights = library.folder / "one" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (library.folder / "two" / "entry.json").write_text("{")
    with running(base, deltas=EveryDelta(library, [base])) as live:
        refused = ask(live, "kitten:one")
        assert (refused.status, refused.json["error"]["code"]) == (500, "model_unreadable")
        assert "SHA-256" in refused.json["error"]["message"]
        assert ask(live, "kitten:two").status == 404
        assert says(live, "kitten:three") == merged["three"]


def test_deltas_over_few_bits_and_guessed_tokens(folder, library):
    base = base_source(folder)
    sources = [base, *chosen(["one", "three"], [base], library)]
    with running(*sources, options=dataclasses.replace(OPTIONS, weights="int8", lookup=True)) as live:
        texts = [says(live, model) for model in ("kitten", "kitten:one", "kitten:three")]
        assert len(set(map(tuple, texts))) == 3


def test_a_delta_of_another_base_is_not_offered(folder, library, tmp_path, adapters):
    other = make_folder(tmp_path / "dog")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    dog = ModelSource(id="dog", folder=other)
    assert EveryDelta(library, [dog])() == {}
    with pytest.raises(ModelError, match="trained on another base \\(kitten\\)"):
        chosen(["one"], [dog], library)
    both = chosen(["mine=" + str(adapters / "one"), "two"], [dog, base_source(folder)], library)
    assert [(one.id, one.base) for one in both] == [("kitten:mine", "kitten"), ("kitten:two", "kitten")]
    odd = tmp_path / "a b"
    shutil.copytree(adapters / "one", odd)
    with pytest.raises(RecipeError, match="write NAME="):
        chosen([str(odd)], [base_source(folder)], library)


def test_an_adapter_that_names_no_base_goes_with_the_only_model(folder, library, tmp_path, adapters):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "adapter_config.json").write_bytes((adapters / "one" / "adapter_config.json").read_bytes())
    write_tensors(foreign / PEFT_WEIGHTS, read_tensors(adapters / "one" / PEFT_WEIGHTS))
    (source,) = chosen([str(foreign)], [base_source(folder)], library)
    assert source.id == "kitten:foreign"
    with pytest.raises(RecipeError, match="dunwu delta add"):
        chosen([str(foreign)], [base_source(folder), ModelSource(id="other", folder=folder)], library)


def test_a_delta_that_changes_more_than_rows_is_refused_with_what_to_do(folder, tmp_path):
    save_delta(shake(attach(load_model(folder), NormsSpec(), seed=0)), tmp_path / "norms")
    base = base_source(folder)
    sources = chosen([str(tmp_path / "norms")], [base], Library(tmp_path))
    shelf = Shelf([base, *sources], partial(load_served_model, options=OPTIONS))
    with pytest.raises(ModelError, match="dunwu delta merge"):  # at the start, not at the first request
        asyncio.run(shelf.start())
    asyncio.run(shelf.close())


def test_the_command_line_says_what_is_wrong(folder, library, capsys, tmp_path):
    registry = ["--registry", str(library.folder)]
    assert run(["serve", str(folder), "--delta", "tow", *registry]) == 2
    assert "did you mean two?" in capsys.readouterr().err
    file = tmp_path / "gateway.yaml"
    file.write_text(f"partners:\n  p: {{model: {folder}, delta: one}}\nroutes:\n  r: p\n")
    assert run(["serve", str(file), "--deltas", "all", *registry]) == 2
    assert "delta: NAME" in capsys.readouterr().err
    file.write_text("partners:\n  p: {model: x, url: 'https://x.example/v1', delta: one}\nroutes:\n  r: p\n")
    assert run(["serve", str(file)]) == 2
    assert "delta is for a model of this machine" in capsys.readouterr().err


def test_partners_of_a_gateway_may_be_deltas_that_share_a_model(folder, library, merged, tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f"partners:\n  plain: {{model: {folder}}}\n  polite: {{model: {folder}, delta: one}}\n"
        "routes:\n  a: plain\n  b: polite\n"
    )
    shelf = serving._shelf([str(file)], partial(load_served_model, options=OPTIONS), Over(library=library))

    async def answers():
        await shelf.start()
        plain, polite = [await shelf.partner_model(name) for name in ("plain", "polite")]
        assert plain.engine is polite.engine
        ids = (*plain.tokenizer.start_ids, *plain.tokenizer.encode(PROMPT))
        told = []
        for model in (plain, polite):
            wish = request(ids, max_tokens=24)
            async with await model.submit(wish) as stream:
                told.append(
                    [
                        token_text(model.tokenizer, event.token_id)
                        async for event in stream
                        if isinstance(event, TokenEvent)
                    ]
                )
        await shelf.close()
        return told

    assert asyncio.run(answers()) == [merged[""], merged["one"]]
