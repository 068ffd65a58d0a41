"""Going on from a base: from the recipe's words to a finished model with its scorecard."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dunwu.build import base as base_module
from dunwu.build.graph import lay_out
from dunwu.build.home import Home
from dunwu.build.learn import rewarm_share
from dunwu.build.registry import STAGES
from dunwu.build.stages.pretrain import PRETRAIN
from dunwu.build.stages.tokenizer import TOKENIZER
from dunwu.cli import run
from dunwu.core.errors import RecipeError
from dunwu.core.files import sha256_file
from dunwu.core.load import check_recipe, load_recipe
from dunwu.core.recipe import PretrainSection
from dunwu.corpus.shards import TokenShards
from dunwu.evaluate.forgetting import read_scorecard
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import load_config, load_model, save_model
from dunwu.tokenizer.extend import read_extension
from dunwu.tokenizer.load import load_tokenizer
from tests.build.place import new_place
from tests.test_cli import write_documents

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = [
    "budget=60s",
    "pretrain.tokens=16000",
    "pretrain.batch_tokens=1024",
    "model.context_length=64",
    "evaluate.heldout_bytes=20000",
    "evaluate.samples=1",
    "evaluate.baselines=false",
    "corpus.quality=false",
]
SHAPE = ["model.hidden_size=32", "model.num_hidden_layers=2", "tokenizer.vocab_size=400"]
CHINESE = "却说宝玉因见林黛玉又病了，心里放不下，饭也懒去吃。宝玉因问黛玉：你又怎么了？黛玉道：我没有什么。"
CONTINUED = [
    "base=builds/general",
    "tokenizer.extend_by=40",
    "replay.sources=[{kind: folder, path: general}]",
    "replay.share=0.25",
    "pretrain.freeze=[model.layers.0.*]",
]


def write_chinese(folder: Path) -> None:
    """Sentences in ever other order: alike enough to be learned a little, unlike enough to be no copies."""
    folder.mkdir()
    parts = [part for part in CHINESE.replace("：", "，").replace("？", "，").replace("。", "，").split("，") if part]
    for i in range(40):
        lines = [
            f"第{i * 60 + j}，" + parts[(i + j * j) % len(parts)] + parts[(i * j + 3) % len(parts)] for j in range(60)
        ]
        (folder / f"{i}.txt").write_text("。\n".join(lines), "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny base of English help, and a build that goes on from it with Chinese."""
    with new_place(tmp_path_factory) as folder:
        write_documents(folder / "general")
        write_chinese(folder / "domain")
        assert run(["build", "general", *SMALL, *SHAPE]) == 0
        before_hash = sha256_file(folder / "builds" / "general" / "model" / "model.safetensors")
        assert run(["build", "domain", *SMALL, *CONTINUED]) == 0
        assert sha256_file(folder / "builds" / "general" / "model" / "model.safetensors") == before_hash
        yield folder


def stage_folder(home: Path, stage: str) -> Path:
    return Home(home).folder_of(Home(home).current()[stage])


def test_the_finished_model_says_what_it_came_from_and_what_that_did(place):
    facts = json.loads((place / "builds" / "domain" / "model" / "dunwu.json").read_text())
    assert facts["base"]["name"] == "general"
    assert facts["base"]["grown_from"]["lineage"]["pretrain"]["sha256"]
    assert list(facts["lineage"]) == ["raw_files", "base", "corpus", "replay", "tokenizer", "pretrain", "evaluate"]
    rows = {row["figure"]: row for row in facts["gain_and_forgetting"]}
    assert set(rows) == {"domain", "general"}
    assert rows["domain"]["direction"] == "better"
    assert rows["domain"]["change"] < -1.0
    scores = facts["scores"]
    assert scores["base bits_per_byte"]["value"] == pytest.approx(rows["domain"]["before"])
    pretrain = Home(place / "builds" / "domain").current()["pretrain"].facts
    assert pretrain["replayed_tokens"] == pytest.approx(0.25 * pretrain["tokens"], rel=0.1)


def test_the_scorecard_is_in_the_report_and_told_on_the_terminal(place, capsys):
    page = (place / "builds" / "domain" / "report.html").read_text("utf-8")
    for text in (
        "Gain and forgetting",
        "增益与遗忘",
        "Against its base",
        "replayed general text",
        "40 tokens were added",
    ):
        assert text in page
    scorecard = read_scorecard(stage_folder(place / "builds" / "domain", "evaluate") / "scorecard.json")
    assert {row.change.n for row in scorecard.rows} != {1}
    words = [word.replace("tokens=16000", "tokens=17000") for word in SMALL]
    assert run(["plan", "domain", *words, *CONTINUED]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "25% of the tokens are replayed" in shown


def test_frozen_parameters_end_as_they_began_and_the_others_do_not(place):
    before = load_model(place / "builds" / "general" / "model").state_dict()
    after = load_model(place / "builds" / "domain" / "model").state_dict()
    same = {
        name for name in before if before[name].shape == after[name].shape and torch.equal(before[name], after[name])
    }
    assert same == {name for name in before if name.startswith("model.layers.0.")}


def test_the_vocabulary_grew_and_the_text_got_shorter(place):
    base, model = place / "builds" / "general" / "model", place / "builds" / "domain" / "model"
    extension = read_extension(stage_folder(place / "builds" / "domain", "tokenizer"))
    assert load_config(model).vocab_size == load_config(base).vocab_size + len(extension.pieces)
    old, new = load_tokenizer(base), load_tokenizer(model)
    assert new.bytes_per_token([CHINESE]) > 1.5 * old.bytes_per_token([CHINESE])
    assert new.encode("the class statement") == old.encode("the class statement")
    assert sorted(file.name for file in model.iterdir()) == sorted({*(f.name for f in base.iterdir())})


def test_the_same_words_again_do_nothing_and_a_changed_base_does_everything_that_stands_on_it(place, capsys):
    assert run(["build", "builds/domain"]) == 0
    assert capsys.readouterr().err.count("done before") == 7
    recipe = load_recipe(place / "builds" / "domain" / "recipe.yaml")
    home = Home(place / "builds" / "domain")
    config = place / "builds" / "general" / "model" / "generation_config.json"
    assert all(step.record for step in lay_out(STAGES, recipe, home))
    config = config.with_name("tokenizer_config.json")
    text = config.read_text()
    config.write_text(text + " ")
    try:
        again = {step.stage.name for step in lay_out(STAGES, recipe, home) if step.record is None}
        assert run(["explain", "base", "builds/domain"]) == 0
        assert "tokenizer_config.json: changed" in capsys.readouterr().out
    finally:
        config.write_text(text)
    assert again == {"base", "tokenizer", "pretrain", "evaluate", "report"}


def test_transformers_reads_the_grown_model(place):
    transformers = pytest.importorskip("transformers")
    folder = place / "builds" / "domain" / "model"
    theirs, tokenizer = (
        getattr(transformers, kind).from_pretrained(folder) for kind in ("AutoModelForCausalLM", "AutoTokenizer")
    )
    ids = load_tokenizer(folder).encode(CHINESE)
    assert tokenizer(CHINESE, add_special_tokens=False)["input_ids"] == ids
    model = load_model(folder)
    found = model.logits(model(torch.tensor([ids])))
    assert torch.allclose(theirs(torch.tensor([ids])).logits, found, atol=1e-4)


def write_open_model(folder: Path) -> None:
    """As others publish theirs: special tokens behind the vocabulary, one of them before every text, padded embeddings."""
    trained = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    trained.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(tokenizers.Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated")
    trained.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(["the class of the statement is the same"] * 9, trainer)
    trained.add_special_tokens(["<|begin|>", "<|end|>"])
    trained.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", trained.token_to_id("<|begin|>"))]
    )
    size = trained.get_vocab_size()
    config = DecoderConfig(
        architecture="llama", vocab_size=size + 10, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=512,
        tie_word_embeddings=False, bos_token_id=size - 2, eos_token_id=size - 1,
    )  # fmt: skip
    save_model(new_decoder(config, seed=0, dtype=torch.bfloat16), folder)
    trained.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "add_bos_token": True}))


def test_a_model_of_others_goes_on_with_its_own_ids_its_own_beginning_and_its_own_context(place):
    write_open_model(place / "open")
    words = ["base=open", "tokenizer.extend_by=40", "name=from-open", "pretrain.optimizer=adamw", *SMALL]
    assert run(["build", "domain", *words]) == 0
    home = Home(place / "builds" / "from-open")
    old, new = load_config(place / "open"), load_config(home.model)
    assert new.vocab_size == old.vocab_size + 30  # ten rows of padding are used up
    assert (new.bos_token_id, new.eos_token_id) == (old.bos_token_id, old.eos_token_id)
    assert new.max_position_embeddings == 512
    assert not new.tie_word_embeddings
    shards = TokenShards.open(stage_folder(home.folder, "tokenizer") / "shards")
    begins = [0, *shards.document_ends[:-1].tolist()]
    assert {int(shards.tokens[at]) for at in begins} == {old.bos_token_id}
    assert (shards.tokens == old.bos_token_id).sum() == len(begins)
    tokenizer = load_tokenizer(home.model)
    assert tokenizer.decode(tokenizer.encode(CHINESE)) == CHINESE
    library = tokenizers.Tokenizer.from_file(str(home.model / "tokenizer.json"))
    assert tokenizer.encode(CHINESE) == library.encode(CHINESE, add_special_tokens=False).ids
    assert "<|begin|>" not in tokenizer.special_ids or tokenizer.encode("<|begin|>") != [old.bos_token_id]
    (row,) = read_scorecard(stage_folder(home.folder, "evaluate") / "scorecard.json").rows
    assert row.direction == "better"


def recipe(**more):
    data = {"corpus": {"sources": [{"kind": "python_docs"}]}, **more}
    return check_recipe(data, [], origin="the test")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"base": "no-such-model"}, "no such folder, and no hub id"),
        ({"tokenizer": {"extend_by": 5}}, "no base whose vocabulary could grow"),
        ({"replay": {"sources": [{"kind": "python_docs"}]}}, "corpus.sources"),
        ({"base": "a/b", "tokenizer": {"vocab_size": 400}}, "tokenizer.extend_by"),
    ],
)
def test_settings_that_have_no_meaning_together_are_refused(settings, told):
    with pytest.raises(RecipeError, match=told):
        recipe(**settings)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["base=./nowhere"], "does not exist"),
        (["base=general"], "holds no model"),
        (["model.hidden_size=64"], "model.hidden_size=64, but the base has 32"),
        (["model.context_length=128"], "beyond the base's 64"),
        (["pretrain.freeze=[model.layer.0.*]"], "fits no parameter; one of them is model.layers.0"),
        (["pretrain.freeze=['*']", "tokenizer.extend_by=0"], "leaves nothing to learn"),
    ],
)
def test_a_base_that_does_not_fit_ends_in_one_clean_message(place, capsys, words, told):
    own = {word.partition("=")[0] for word in words}
    given = [word for word in (*SMALL, *CONTINUED) if word.partition("=")[0] not in own]
    assert run(["build", "domain", "out=builds/refused", *given, *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert told in said
    assert "Traceback" not in said


def test_a_hub_id_is_told_from_a_folder_and_names_the_stage_by_its_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = recipe(base="Qwen/Qwen3-0.6B@abc")
    (base,) = [stage for stage in STAGES if stage.name == "base"]
    assert base.inputs(hub) == {"base": {"Qwen/Qwen3-0.6B": "revision abc"}}
    (tmp_path / "Qwen" / "Qwen3-0.6B").mkdir(parents=True)
    assert recipe(base="Qwen/Qwen3-0.6B").base == str(tmp_path / "Qwen" / "Qwen3-0.6B")


def test_a_hubs_model_is_used_at_the_commit_that_was_fetched_first(place, monkeypatch):
    snapshot = place / "hub" / "models--some--model" / "snapshots" / "0123abc"
    write_open_model(snapshot)
    asked = []

    def fetched(name, *, revision=None, weights=True):
        asked.append((name, revision, weights))
        return snapshot

    monkeypatch.setattr(base_module, "model_folder", fetched)
    assert run(["build", "domain", "base=some/model@v1", "name=from-hub", *SMALL]) == 0
    assert asked[0] == ("some/model", "v1", False)  # a plan needs the small files only
    assert asked[-1] == ("some/model", "0123abc", True)
    facts = json.loads((place / "builds" / "from-hub" / "model" / "dunwu.json").read_text())
    assert (facts["base"]["name"], facts["base"]["revision"]) == ("some/model@v1", "0123abc")
    assert "base_model: some/model\n" in (place / "builds" / "from-hub" / "model" / "README.md").read_text()


def test_rates_are_warmed_up_less_for_models_of_others():
    section = PretrainSection()
    assert rewarm_share(section, {"name": "mine"}) > rewarm_share(section, {})
    assert rewarm_share(PretrainSection(rewarm=0.5), {}) == 0.5


def test_the_shipped_recipes_load():
    open_model = load_recipe(RECIPES / "domain_from_open_model.yaml")
    assert open_model.base == "Qwen/Qwen3-0.6B"
    own = load_recipe(RECIPES / "domain_from_own_model.yaml")
    assert Path(own.base).resolve() == RECIPES.parent / "builds" / "demo"
    demo = load_recipe(RECIPES / "default.yaml")
    assert own.seed == demo.seed
    assert set(own.replay.sources) <= set(demo.corpus.sources)
    assert own.sft.sources == demo.sft.sources
    sums = load_recipe(RECIPES / "word_problems.yaml")
    assert {source.kind for source in (*sums.sft.sources, *sums.rl.sources)} == {"sums"}
    assert sums.sft.sources[0].seed != sums.rl.sources[0].seed


def test_the_recipe_for_ones_own_model_runs_small(place):
    words = [
        "base=builds/general",
        "corpus.sources.0.max_bytes=60000",
        "replay.sources.0.size=0.02",
        "tokenizer.extend_by=20",
    ]
    words += ["sft.sources.0.size=0.02", "sft.tokens=4000", "evaluate.exam_questions=1", "pretrain.tokens=8000"]
    words += [word for word in SMALL if not word.startswith(("pretrain.tokens", "corpus"))]
    assert run(["build", str(RECIPES / "domain_from_own_model.yaml"), *words]) == 0
    facts = json.loads((place / "builds" / "demo-python" / "model" / "dunwu.json").read_text())
    figures = {(row["figure"], row["stage"]) for row in facts["gain_and_forgetting"]}
    assert {("domain", "sft"), ("general", "pretrain"), ("exam.recall", "sft")} <= figures


def test_a_duration_written_otherwise_is_the_same_build():
    one, other = recipe(budget="60min"), recipe(budget="1h")
    for stage in (TOKENIZER, PRETRAIN):
        assert stage.settings(one) == stage.settings(other)
    assert PRETRAIN.settings(one) != PRETRAIN.settings(recipe(budget="61min"))


def test_settings_that_came_later_leave_older_homes_done():
    settings = PRETRAIN.settings(recipe())["pretrain"]
    assert not {"freeze", "rewarm"} & set(settings)
    assert "rewarm" in PRETRAIN.settings(recipe(base="a/b"))["pretrain"]
    assert "freeze" in PRETRAIN.settings(recipe(pretrain={"freeze": ["x"]}))["pretrain"]
