"""Where rows come from: formats, folders by split and subject, patterns, and the hub."""

import gzip
import json
from pathlib import Path

import pytest

from dunwu.core.errors import DataError, RecipeError
from dunwu.evaluate.tasks.demonstrations import usual_shots
from dunwu.evaluate.tasks.finding import find_task
from dunwu.evaluate.tasks.rows import read_rows
from tests.evaluate.tasks.hub_of_data import DataHub

ROWS = [{"question": 'One, "two"\nand three?', "answer": "3"}, {"question": "四？", "answer": "4"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = 'question,answer\n"One, ""two""\nand three?",3\n四？,4\n'


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("a.jsonl", LINES, {}),
        ("a.json", json.dumps(ROWS), {}),
        ("a.json", json.dumps({"canary": "x", "examples": ROWS}), {"rows": "examples"}),
        ("a.csv", TABLE, {}),
        ("a.csv", TABLE.partition("\n")[2], {"columns": ("question", "answer")}),
        ("a.tsv", TABLE.replace(",3", "\t3").replace(",4", "\t4").replace("n,a", "n\ta"), {}),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str, options: dict) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        assert [row.values for row in read_rows(path, **options)] == ROWS


def test_parquet(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a.parquet"
    duckdb.sql("SELECT 'Why?' AS question, ['so', 'thus'] AS choices, {'label': [1, 0]} AS targets").write_parquet(
        str(path)
    )
    assert [row.values for row in read_rows(path)] == [
        {"question": "Why?", "choices": ["so", "thus"], "targets": {"label": [1, 0]}}
    ]
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert [row.values for row in read_rows(tmp_path / "b.parquet.gz")] == [row.values for row in read_rows(path)]
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet is no readable Parquet file"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl, line 2: is not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"a\.jsonl, line 2: is .*1.*, not an object"),
        ("a.jsonl", b"\n\n", r"a\.jsonl has no rows"),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json, row 2: is '2'"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv, line 3: .*3 where 2 are named \(a, b\)"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], r"a\.jsonl\.gz is damaged or cut short"),
        ("a.txt", b"head\n\nQ: One?\nA: 1\n\nQ: Two?\n", r"a\.txt, problem 2: has no answer"),
        ("a.xlsx", b"x", r"a\.xlsx is none of \.json"),
    ],
)
def test_a_bad_file_is_named_with_its_row(tmp_path: Path, name: str, data: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=complaint):
        list(read_rows(tmp_path / name))


def test_an_object_without_the_list_names_its_keys(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": [], "x": 1}', "utf-8")
    with pytest.raises(DataError, match=r"no list under 'examples'; its keys are data, x"):
        list(read_rows(tmp_path / "a.json", rows="examples"))


QUIZ = 'input: "{{question}}"\ntarget: "{{answer}}"\nsubjects: {law: law, art: art}\nshots: {split: dev}\n'


def quiz(folder: Path, source: str = "", **given: Path) -> list[str]:
    (folder / "quiz.yaml").write_text(QUIZ + source, "utf-8")
    task = find_task(folder / "quiz.yaml", **given)
    return [f"{problem.subject}:{problem.target}" for problem in (*task.problems(), *task.pool())]


def put(path: Path, answer: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        f"question,answer\nQ,{answer}\n" if path.suffix == ".csv" else json.dumps({"question": "Q", "answer": answer})
    )
    path.write_text(text, "utf-8")


@pytest.mark.parametrize(
    "names",
    [
        ("test/law.csv", "test/art.csv", "dev/law.csv"),
        ("law_test.csv", "art_test.csv", "law_dev.csv"),
        ("law/test.jsonl", "art/test.jsonl", "law/dev.jsonl"),
        ("law/test-00000-of-00001.jsonl", "art/test-00000-of-00001.jsonl", "law/dev-00000-of-00001.jsonl"),
        ("law.json", "art.json", "dev/law.json"),
    ],
)
def test_a_folder_is_read_by_split_and_subject(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, answer in zip(names, ("1", "2", "3"), strict=True):
        put(tmp_path / "data" / name, answer)
    assert sorted(quiz(tmp_path, data=tmp_path / "data")) == ["art:2", "law:1", "law:3"]


def test_a_folder_without_the_split_says_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path / "data" / "train.jsonl", "1")
    put(tmp_path / "data" / "dev.jsonl", "1")
    with pytest.raises(DataError, match=r"holds no split 'test' of quiz \(it holds dev\.jsonl, train\.jsonl\)"):
        quiz(tmp_path, data=tmp_path / "data")
    with pytest.raises(DataError, match=r"data=.*nowhere does not exist"):
        quiz(tmp_path, data=tmp_path / "nowhere")


def test_a_folder_without_demonstrations_will_do_where_none_are_shown(tmp_path: Path) -> None:
    put(tmp_path / "data" / "test.jsonl", "1")
    (tmp_path / "quiz.yaml").write_text(QUIZ, "utf-8")
    task = find_task(tmp_path / "quiz.yaml", data=tmp_path / "data")
    (problem,) = task.problems()
    assert task.pool() == () == usual_shots(task, 0)(problem)
    assert len(task.fingerprint) == 64
    with pytest.raises(DataError, match=r"quiz has 0 demonstrations, and 2 are needed; .* \(split 'dev'\)"):
        usual_shots(task, 2)(problem)


def test_subjects_that_the_data_lack_are_named_with_those_that_they_have(tmp_path: Path) -> None:
    put(tmp_path / "data" / "test" / "law.csv", "1")
    (tmp_path / "quiz.yaml").write_text(QUIZ, "utf-8")
    with pytest.raises(DataError, match="quiz has no question of art in these data, which have law"):
        find_task(f"{tmp_path / 'quiz.yaml'}:art", data=tmp_path / "data").problems()


def test_one_file_for_two_splits_never_shows_a_problem_itself(tmp_path: Path) -> None:
    (tmp_path / "train_5.jsonl").write_text(LINES, "utf-8")
    (tmp_path / "quiz.yaml").write_text(QUIZ.replace("dev", "train"), "utf-8")
    task = find_task(tmp_path / "quiz.yaml", data=tmp_path / "train_5.jsonl")
    first, second = task.problems()
    assert [shot.target for shot in task.pool_of(first)] == [second.target]


def test_files_are_relative_to_the_yaml_and_may_be_patterns(tmp_path: Path) -> None:
    put(tmp_path / "rows" / "a.csv", "1")
    put(tmp_path / "rows" / "b.csv", "2")
    put(tmp_path / "own" / "law.csv", "3")
    source = "source: {files: {test: rows/*.csv, dev: 'own/{subject}.csv'}}\nsubjects: {law: law}\n"
    (tmp_path / "quiz.yaml").write_text(QUIZ.replace("subjects: {law: law, art: art}\n", "") + source, "utf-8")
    task = find_task(tmp_path / "quiz.yaml")
    assert [problem.target for problem in task.problems()] == ["1", "2"]
    assert [(problem.subject, problem.target) for problem in task.pool()] == [("law", "3")]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("source: {files: {test: nothing/*.csv}}\n", r"no file fits .*nothing/\*\.csv'.*source\.files\.test"),
        ("source: {files: {train: a.csv}}\n", "names no files of the split 'test', only of train"),
        ("", "names no source; write source.files or source.hub"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, source: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        quiz(tmp_path, source)


class TestHub:
    """Through the real `huggingface_hub`, from a small hub on this machine."""

    @pytest.fixture
    def offline_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        return tmp_path

    def test_each_subject_s_file_is_fetched_and_read(self, offline_cache: Path) -> None:
        duckdb = pytest.importorskip("duckdb")
        files = {}
        for subject, answer in (("law", "1"), ("art", "2")):
            path = offline_cache / f"{subject}.parquet"
            duckdb.sql(f"SELECT 'Q' AS question, '{answer}' AS answer").write_parquet(str(path))
            files[f"{subject}/test/0000.parquet"] = path.read_bytes()
        hub = DataHub("someone/quiz", files)
        try:
            source = f'source: {{hub: someone/quiz, config: "{{subject}}", mirror: "{hub.address}"}}\nshots: {{}}\n'
            text = QUIZ.replace("shots: {split: dev}\n", "") + source
            (offline_cache / "quiz.yaml").write_text(text, "utf-8")
            task = find_task(offline_cache / "quiz.yaml")
            assert [(problem.id, problem.target) for problem in task.problems()] == [("law/0", "1"), ("art/0", "2")]
            again = find_task(f"{offline_cache / 'quiz.yaml'}:art")
            assert [problem.target for problem in again.problems()] == ["2"]
            (offline_cache / "quiz.yaml").write_text(text + "split: validation\n", "utf-8")
            with pytest.raises(DataError, match="has no configuration 'law' with a split 'validation'"):
                find_task(offline_cache / "quiz.yaml").problems()
        finally:
            hub.close()

    def test_without_a_network_the_error_says_what_to_do(self, offline_cache: Path) -> None:
        source = "source: {hub: someone/quiz, mirror: 'http://127.0.0.1:9'}\n"
        with pytest.raises(
            DataError, match=r"someone/quiz could not be fetched from http://127\.0\.0\.1:9 .*HF_ENDPOINT.*data=FOLDER"
        ):
            quiz(offline_cache, source)


def test_a_yaml_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("input: [", "utf-8")
    with pytest.raises(RecipeError, match=r"a\.yaml is not valid YAML"):
        find_task(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("- 1", "utf-8")
    with pytest.raises(RecipeError, match=r"a\.yaml holds no task"):
        find_task(tmp_path / "a.yaml")
    with pytest.raises(RecipeError, match=r"b\.yaml cannot be read"):
        find_task(tmp_path / "b.yaml")
