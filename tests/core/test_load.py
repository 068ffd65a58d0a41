import pytest

from dunwu.core.errors import RecipeError
from dunwu.core.load import dump_recipe, load_recipe, recipe_for_documents
from dunwu.core.nearest import known_keys, nearest_key
from dunwu.core.policy import GrpoSpec, PpoSpec
from dunwu.core.recipe import Recipe

SMALL = "name: small\ncorpus:\n  sources:\n    - kind: folder\n      path: texts\n"


@pytest.fixture
def recipe_file(tmp_path):
    file = tmp_path / "recipes" / "small.yaml"
    file.parent.mkdir()
    file.write_text(SMALL, "utf-8")
    return file


def refused(file, text, *overrides):
    file.write_text(text, "utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, overrides)
    return str(caught.value)


def test_paths_in_a_recipe_start_at_its_folder_and_paths_in_overrides_at_the_working_folder(
    recipe_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(recipe_file).corpus.sources[0].path == str(recipe_file.parent / "texts")
    changed = load_recipe(recipe_file, ["corpus.sources.0.path=elsewhere"])
    assert changed.corpus.sources[0].path == str(tmp_path / "elsewhere")


def test_numbers_are_those_of_yaml_1_2_and_words_stay_words(recipe_file):
    recipe_file.write_text(SMALL + "pretrain: {lr_muon: 1e-2, tokens: 2e6}\n", "utf-8")
    recipe = load_recipe(recipe_file, ["pretrain.weight_decay=1e-4", "name=no"])
    assert recipe.pretrain.lr_muon == 0.01
    assert recipe.pretrain.tokens == 2_000_000
    assert recipe.pretrain.weight_decay == 1e-4
    assert recipe.name == "no"


def test_a_recipe_written_out_reads_back_as_itself(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["sft.sources=[{kind: world, seed: 3}]", "budget=90s"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe), "utf-8")
    assert load_recipe(copy) == recipe


def test_an_unknown_key_names_the_nearest_with_its_whole_path(recipe_file):
    assert "model.hidden_size" in refused(recipe_file, SMALL + "model: {hiden_size: 64}\n")
    assert "did you mean model.hidden_size?" in refused(recipe_file, SMALL + "hidden_size: 64\n")
    text = SMALL.replace("path: texts", "path: texts\n      txt_key: body")
    assert "unknown key corpus.sources.0.txt_key: did you mean corpus.sources.0.text_key?" in refused(recipe_file, text)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("modl.hidden_size=3", "model.hidden_size"),
        ("pretrain.token=3", "pretrain.tokens"),
        ("corpus.sources.1.pth=x", "corpus.sources.1.path"),
        ("bugdet=5min", "budget"),
    ],
)
def test_an_unknown_override_names_the_nearest_with_its_whole_path(recipe_file, override, nearest):
    with pytest.raises(RecipeError, match=f"did you mean {nearest}"):
        load_recipe(recipe_file, [override])


def test_nothing_near_means_no_suggestion():
    assert nearest_key("zzzzzzzz", Recipe) is None
    assert "corpus.sources.*.path" in known_keys(Recipe)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("model: {num_hidden_layers: '4'}", "model.num_hidden_layers='4': must be a whole number or 'auto'"),
        ("model: {num_hidden_layers: 0}", "model.num_hidden_layers=0: must be at least 1 or 'auto'"),
        ("pretrain: {schedule: cosin}", "pretrain.schedule='cosin': must be 'wsd', 'cosine' or 'constant'"),
        ("pretrain: {weight_decay: .nan}", "pretrain.weight_decay=nan: must be a finite number"),
        ("pretrain: {tokens: 1.5}", "pretrain.tokens=1.5: must be a whole number or 'auto'"),
        ("pretrain: {tensorboard: yes}", "pretrain.tensorboard='yes': must be true or false"),
        ("pretrain: {lr_adamw: -1e-3}", "pretrain.lr_adamw=-0.001: must be greater than 0.0 or 'auto'"),
        ("pretrain: {betas: [0.9, 1.0]}", "pretrain.betas.1=1.0: must be less than 1.0"),
        ("seed: true", "seed=True: must be a whole number"),
        ("budget: 5", "budget=5: must be text"),
        ("budget: 5 parsecs", "budget: '5 parsecs' is not a duration"),
        ("memory: lots", "memory: 'lots' is not a size"),
        ("tokenizer: 4096", "tokenizer=4096: must be a group of keys"),
        ("sft: {sources: [{weight: 2}]}", "must be an entry that says its kind"),
    ],
)
def test_a_wrong_value_is_told_with_its_rule(recipe_file, lines, expected):
    assert expected in refused(recipe_file, SMALL + lines + "\n")


def test_all_faults_of_a_recipe_come_at_once_and_parents_of_faults_are_not_blamed(recipe_file):
    text = SMALL.replace("path: texts", "path: 3") + "seed: -1\nmodel: {hiden_size: 1}\n"
    lines = refused(recipe_file, text).splitlines()[1:]
    assert len(lines) == 3
    assert not any(line.startswith("corpus.sources=") for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMALL + "seed: 1\nseed: 2\n", "duplicate key"),
        ("corpus: [}\n", "line 1"),
        ("just words", "holds str"),
        ("", "holds NoneType"),
        ("name: x\n", "corpus.sources is empty"),
        ("corpus: &a\n  sources: *a\n", "refers to itself"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_place(recipe_file, text, expected):
    assert expected in refused(recipe_file, text)


def test_overrides_reach_into_lists_and_past_their_end_only_by_one(recipe_file):
    recipe = load_recipe(recipe_file, ["corpus.sources.1={kind: python_docs}", "evaluate.prompts=[a, b]"])
    assert recipe.corpus.sources[1].kind == "python_docs"
    assert recipe.evaluate.prompts == ("a", "b")
    with pytest.raises(RecipeError, match="no entry 4"):
        load_recipe(recipe_file, ["corpus.sources.4.path=x"])
    with pytest.raises(RecipeError, match="given twice"):
        load_recipe(recipe_file, ["seed=1", "seed=2"])


def test_a_folder_of_documents_is_a_recipe_without_fine_tuning(tmp_path):
    folder = tmp_path / "my notes, 2026"
    folder.mkdir()
    recipe = recipe_for_documents(folder)
    assert recipe.name == "my-notes-2026"
    assert recipe.corpus.sources[0].path == str(folder)
    assert recipe.sft.sources == ()
    assert recipe_for_documents(tmp_path / "三国演义.txt.gz").name == "三国演义"


WRITTEN_OUT = SMALL + "rl: {algorithm: {method: grpo, beta: 0.0, epochs: 1, scale: none, cut_off: leave_out}}\n"


def test_another_method_begins_afresh_with_what_is_given_beside(recipe_file):
    recipe_file.write_text(WRITTEN_OUT, "utf-8")
    recipe = load_recipe(recipe_file, ["rl.algorithm.gamma=0.5", "rl.algorithm.method=ppo"])
    assert recipe.rl.algorithm == PpoSpec(gamma=0.5)
    same = load_recipe(recipe_file, ["rl.algorithm.method=grpo", "rl.algorithm.beta=0.1"])
    assert same.rl.algorithm == GrpoSpec(beta=0.1, epochs=1, scale="none", cut_off="leave_out")


def test_an_option_of_another_method_is_told_from_one_that_nobody_knows(recipe_file):
    recipe_file.write_text(WRITTEN_OUT, "utf-8")
    refused_as = {"gamma": "with method: grpo there is no gamma", "gama": "did you mean rl.algorithm.gamma"}
    for option, message in refused_as.items():
        with pytest.raises(RecipeError, match=message):
            load_recipe(recipe_file, [f"rl.algorithm.{option}=0.5"])


def test_every_fault_of_an_override_is_a_recipe_error(tmp_path):
    with pytest.raises(RecipeError, match="not valid YAML"):
        recipe_for_documents(tmp_path, ["corpus.quality=[oops"])
    with pytest.raises(RecipeError, match="nothing named"):
        recipe_for_documents(tmp_path, ["corpus.sources=3", "corpus.sources.0.path=x"])


def test_lists_within_sources_and_rewards_that_are_looked_at_first_come_back_as_they_were_written(tmp_path):
    text = """\
corpus: {sources: [{kind: world}]}
sft: {sources: [{kind: world}]}
rl:
  sources: [{kind: world, languages: [zh]}]
  rewards: [world, {kind: format, tags: [think, answer], clip: [0, 0.5]}]
"""
    file = tmp_path / "rl.yaml"
    file.write_text(text, "utf-8")
    recipe = load_recipe(file)
    assert recipe.rl.sources[0].languages == ("zh",)
    assert (recipe.rl.rewards[1].tags, recipe.rl.rewards[1].clip) == (("think", "answer"), (0, 0.5))
    file.write_text(dump_recipe(recipe), "utf-8")
    assert load_recipe(file) == recipe
