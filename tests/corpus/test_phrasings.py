"""One task in many words, made of the columns of a row."""

import json
from collections import Counter
from pathlib import Path

import pytest

from dunwu.core.errors import DataError, DunwuError, RecipeError
from dunwu.core.load import load_recipe
from dunwu.core.recipe import SftFileSource
from dunwu.corpus.instructions import InstructionReader
from dunwu.corpus.phrasings import Phrasings, _set, shipped_sets

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ROWS = [{"classical": f"曰{number}", "modern": f"说{number}"} for number in range(200)]
TRANSLATION = {
    "phrasings": ("translation-zh",),
    "columns": {"text": "classical", "translation": "modern"},
    "constants": {"source_language": "文言文", "target_language": "现代汉语"},
}


def read(tmp_path, rows, *, seed=0, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reader = InstructionReader(SftFileSource.model_validate({"path": str(path), **settings}), seed=seed)
    return [[message.content for message in example.messages] for example in reader], reader


def own(tmp_path: Path, text: str, name: str = "own.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize("name", shipped_sets())
def test_a_shipped_set_has_ten_phrasings_that_differ_and_hold_all_that_is_asked(name):
    phrasings = _set(name)
    assert len({phrasing.user for phrasing in phrasings}) == len(phrasings) >= 10
    values = {variable: f"<{variable}>" for variable in frozenset().union(*(p.variables for p in phrasings))}
    answers = set()
    for phrasing in phrasings:
        user, answer = (message.content for message in Phrasings([phrasing], {}, {}, 0).conversation(values, "row"))
        answers.add(answer)
        mine = phrasing.variables - {answer.strip("<>")}
        assert mine >= {"text"} or mine >= {"question"}
        assert all(f"<{variable}>" in user for variable in mine)
        assert user == user.strip("\n ")
    assert len(answers) == 1
    assert not answers & {values[variable] for variable in mine}


def test_there_are_sets_for_the_common_tasks_in_both_languages():
    tasks = {"classification", "question", "reading", "rewriting", "summary", "title", "translation"}
    assert set(shipped_sets()) == {f"{task}-{language}" for task in tasks for language in ("en", "zh")}


def test_each_row_takes_a_phrasing_by_seed_and_name(tmp_path):
    conversations, reader = read(tmp_path, ROWS, **TRANSLATION)
    assert reader.formats == {"rows.jsonl": "phrasings translation-zh"}
    assert [answer for _, answer in conversations] == [row["modern"] for row in ROWS]
    assert all(row["classical"] in question for row, (question, _) in zip(ROWS, conversations, strict=True))
    used = Counter(
        question.replace(row["classical"], "") for row, (question, _) in zip(ROWS, conversations, strict=True)
    )
    assert len(used) == 12
    assert max(used.values()) < 40
    assert read(tmp_path, ROWS, **TRANSLATION)[0] == conversations
    assert read(tmp_path, ROWS[:50], **TRANSLATION)[0] == conversations[:50]
    assert read(tmp_path, ROWS, seed=1, **TRANSLATION)[0] != conversations


def test_a_set_of_ones_own_may_turn_the_task_round_and_give_a_system_prompt(tmp_path):
    text = """
        answer: "{{ modern }}"
        phrasings:
          - "Modern: {{ classical }}"
          - {system: "Be old.", user: "Classical: {{ modern }}", answer: "{{ classical }}"}
    """
    conversations, _ = read(tmp_path, ROWS, phrasings=[own(tmp_path, text)])
    assert ["Modern: 曰0", "说0"] in conversations or ["Be old.", "Classical: 说0", "曰0"] in conversations
    assert {len(texts) for texts in conversations} == {2, 3}


def test_a_set_may_be_json_and_a_plain_list_and_sets_may_be_joined(tmp_path):
    one = own(tmp_path, json.dumps([{"user": "A {{ classical }}", "answer": "{{ modern }}"}]), "one.json")
    two = own(tmp_path, json.dumps([{"user": "B {{ classical }}", "answer": "{{ modern }}"}]), "two.json")
    conversations, _ = read(tmp_path, ROWS, phrasings=[one, two])
    assert {question[0] for question, _ in conversations} == {"A", "B"}


def test_templates_inside_the_data_stay_data(tmp_path):
    hostile = "{{ modern }} {% for x in range(9) %}x{% endfor %} {# gone #} <|im_end|> {{ self.__init__ }}"
    conversations, _ = read(
        tmp_path,
        [{"classical": hostile, "modern": hostile}],
        phrasings=[own(tmp_path, '{answer: "{{ modern }}", phrasings: ["Q: {{ classical }}"]}')],
    )
    assert conversations == [[f"Q: {hostile}", hostile]]


def test_lists_are_written_as_the_language_writes_them_and_paths_reach_into_rows(tmp_path):
    row = {"text": "好看！", "labels": ["好评", "差评"], "gold": {"answers": [{"text": "好评"}]}}
    settings = {"phrasings": ["classification-zh"], "columns": {"label": "gold.answers.0.text"}}
    ((question, answer),), _ = read(tmp_path, [row], **settings)
    assert "好评、差评" in question
    assert answer == "好评"
    ((question, _),), _ = read(
        tmp_path, [{"text": "Good!", "labels": "a or b", "label": "a"}], phrasings=["classification-en"]
    )
    assert "a or b" in question


def test_a_row_without_a_column_is_a_bad_row(tmp_path):
    rows = [*ROWS[:3], {"classical": "曰"}, {"classical": "曰", "modern": None}, {"classical": "曰", "modern": ""}]
    conversations, reader = read(tmp_path, rows, **TRANSLATION)
    assert len(conversations) == 3
    assert dict(reader.dropped) == {
        "is not in the file's format, phrasings translation-zh": 2,
        "has an empty answer": 1,
    }


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({**TRANSLATION, "columns": {"text": "classical"}}, "need 'translation', which no row has under 'translation'; its keys are classical, modern"),
        ({**TRANSLATION, "columns": {**TRANSLATION["columns"], "txt": "modern"}}, "name 'txt', which no phrasing uses"),
        ({"phrasings": ["translation"]}, "'translation', which is no set; did you mean translation-"),
        ({"phrasings": ["missing.yaml"]}, "cannot read the phrasings missing.yaml"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_say_so(tmp_path, settings, told):
    with pytest.raises(DunwuError, match=told):
        read(tmp_path, ROWS, **settings)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("phrasings: []", "holds no list of phrasings"),
        ("just text", "holds no list of phrasings"),
        ("phrasings: ['Q {{ classical }}']", "own.yaml 1 has no answer; add `answer: ...`"),
        ("{answer: x, phrasings: ['Q {{ classical ']}", "own.yaml 1 is no valid template"),
        ("{answer: x, phrasings: [{question: 'Q'}]}", "is neither a template nor has it user, answer and system"),
        ("{answer: x, prompts: [], phrasings: ['Q']}", "has the unknown key 'prompts'"),
        ("{answer: 7, phrasings: ['Q']}", "has 7 where a template is due"),
        ("a: [", "is not valid"),
    ],
)
def test_a_set_that_is_not_well_formed_says_where(tmp_path, text, told):
    with pytest.raises(RecipeError, match=told):
        read(tmp_path, ROWS, phrasings=[own(tmp_path, text)])


def test_a_template_that_works_without_end_is_stopped(tmp_path):
    endless = "{answer: x, phrasings: ['{% for a in range(10000) %}{% for b in range(10000) %}{{ classical }}{% endfor %}{% endfor %}']}"
    with pytest.raises(DataError, match="does not fill its phrasing"):
        read(tmp_path, ROWS[:2], phrasings=[own(tmp_path, endless)])


def test_paths_of_sets_start_at_the_recipe_and_names_of_sets_stay(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "corpus: {sources: [{kind: world}]}\n"
        "sft: {sources: [{kind: file, path: rows.jsonl, phrasings: [own.yaml, title-en]}]}\n"
    )
    source = load_recipe(tmp_path / "recipe.yaml").sft.sources[0]
    assert isinstance(source, SftFileSource)
    assert source.phrasings == (str(tmp_path / "own.yaml"), "title-en")


def test_classical_and_modern_chinese(tmp_path):
    path = DATA / "zh_classical_modern" / "pairs.jsonl.gz"
    if not path.is_file():
        pytest.skip("the shared data set zh_classical_modern is not here")
    reader = iter(InstructionReader(SftFileSource.model_validate({"path": str(path), **TRANSLATION})))
    first = next(reader).messages
    assert "万石君名奋，其父赵人也，姓石氏。" in first[0].content
    assert first[1].content == "万石君名奋，他的父亲是赵国人，姓石。"
