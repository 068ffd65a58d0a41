import dataclasses
import json
import multiprocessing
import os
import signal
import time

import pytest

from dunwu.build.explain import explain_stage
from dunwu.build.graph import Outcome, lay_out
from dunwu.build.home import INPUTS_FILE, Figures, Forecast, Home
from dunwu.build.inputs import corpus_inputs
from dunwu.build.lock import locked
from dunwu.build.stages.corpus import CORPUS
from dunwu.core.errors import BuildError, DataError, DiskError
from dunwu.core.recipe import Recipe
from dunwu.train.signals import Interrupted

from .fakes import build, recipe, stage


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "one.txt").write_text("eins")
    (folder / "two.txt").write_text("zwei")
    return folder


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def three(runs):
    return [
        stage("corpus", runs=runs, settings=lambda r: {"quality": r.corpus.quality}, inputs=corpus_inputs),
        stage("pretrain", ("corpus",), runs=runs),
        stage("sft", ("corpus", "pretrain"), runs=runs),
    ]


def test_what_is_done_is_not_done_again(documents, home):
    runs = []
    build(three(runs), recipe(documents), home)
    build(three(runs), recipe(documents), home)
    assert runs == ["corpus", "pretrain", "sft"]
    assert home.current()["sft"].facts["read"] == ["corpus()", "pretrain(corpus())"]


def test_a_change_reruns_the_stage_and_what_follows_and_the_old_output_stays_for_going_back(documents, home):
    runs = []
    build(three(runs), recipe(documents), home)
    runs.clear()
    build(three(runs), recipe(documents, sft={"epochs": 5}), home)
    assert runs == ["sft"]
    runs.clear()
    build(three(runs), recipe(documents, pretrain={"weight_decay": 0.3}), home)
    assert runs == ["pretrain", "sft"]
    runs.clear()
    build(three(runs), recipe(documents), home)
    assert runs == []


def test_a_changed_document_reruns_everything_but_one_of_an_unknown_kind_or_another_folder_does_not(
    documents, home, tmp_path
):
    runs = []
    build(three(runs), recipe(documents), home)
    (documents / "photo.jpeg").write_bytes(b"\xff\xd8")
    moved = documents.rename(tmp_path / "moved")
    build(three(runs), recipe(moved), home)
    assert runs == ["corpus", "pretrain", "sft"]
    (moved / "two.txt").write_text("drei")
    build(three(runs), recipe(moved), home)
    assert runs == ["corpus", "pretrain", "sft"] * 2


def test_new_code_reruns_its_stage(documents, home):
    runs = []
    build(three(runs), recipe(documents), home)
    newer = three(runs)
    newer[1] = stage("pretrain", ("corpus",), runs=runs, version="2")
    runs.clear()
    build(newer, recipe(documents), home)
    assert runs == ["pretrain", "sft"]


@pytest.mark.parametrize("harm", ["remove", "change", "cut"])
def test_a_damaged_output_is_noticed_and_made_again(documents, home, harm):
    runs = []
    build(three(runs), recipe(documents), home)
    output = home.folder_of(home.current()["pretrain"]) / "output.txt"
    if harm == "remove":
        output.unlink()
    else:
        output.write_text("pretrain(c0rpus())" if harm == "change" else "pre")
    runs.clear()
    said = build(three(runs), recipe(documents), home)
    assert runs == ["pretrain"]
    assert "damaged" in said
    assert output.read_text() == "pretrain(corpus())"


def test_an_interrupted_stage_goes_on_in_its_folder_with_the_choices_it_began_with(documents, home):
    runs, seen = [], []

    def fail_first(work):
        seen.append((work.folder, work.resolved))
        if len(seen) == 1:
            raise DataError("the power went")

    stages = [stage("corpus", runs=runs), stage("pretrain", ("corpus",), runs=runs, work=fail_first)]
    with pytest.raises(DataError):
        build(stages, recipe(documents), home)
    assert "pretrain" not in home.current()
    said = build(stages, recipe(documents), home)
    assert runs == ["corpus", "pretrain", "pretrain"]
    assert seen[0] == seen[1]
    assert "interrupted" in said


def test_time_counts_over_all_runs_of_an_interrupted_stage(documents, home):
    runs = []

    def slow(work):
        time.sleep(0.3)
        if len(runs) == 1:
            raise DataError("stop")

    stages = [stage("corpus", runs=runs, work=slow)]
    with pytest.raises(DataError):
        build(stages, recipe(documents), home)
    build(stages, recipe(documents), home)
    assert home.current()["corpus"].actual.seconds > 0.6


def test_the_choices_of_a_stage_see_the_facts_and_the_time_of_those_before(documents, home):
    runs, outlooks = [], []

    def forecast(outlook):
        outlooks.append(outlook)
        return Forecast(predicted=Figures(seconds=1.0))

    stages = [
        stage("corpus", runs=runs, work=lambda work: time.sleep(0.2)),
        stage("pretrain", ("corpus",), runs=runs, forecast=forecast),
    ]
    build(stages, recipe(documents), home)
    assert outlooks[-1].facts["corpus"] == {"read": []}
    assert outlooks[-1].spent_s >= 0.2


def test_a_skipped_stage_leaves_the_graph(documents, home):
    runs = []
    stages = three(runs)
    stages[1] = stage("pretrain", ("corpus",), runs=runs, wanted=lambda recipe: False)
    stages[2] = stage("sft", ("corpus",), runs=runs)
    build(stages, recipe(documents), home)
    assert runs == ["corpus", "sft"]


def test_explain_names_settings_and_files_from_what_to_what(documents, home):
    stages = three([])
    assert "never run" in explain_stage(stages, "corpus", recipe(documents), home)
    build(stages, recipe(documents), home)
    assert "would not run" in explain_stage(stages, "sft", recipe(documents), home)
    (documents / "one.txt").write_text("uno")
    (documents / "three.txt").write_text("tre")
    changed = recipe(documents, sft={"epochs": 5})
    corpus, sft = (explain_stage(stages, name, changed, home) for name in ("corpus", "sft"))
    assert "one.txt: changed" in corpus
    assert "three.txt: new" in corpus
    assert "two.txt" not in corpus
    assert "epochs: 2.0 → 5.0" in sft
    assert "corpus before it changed" in sft
    with pytest.raises(BuildError, match="corpus, pretrain, sft"):
        explain_stage(stages, "pretrian", changed, home)


def test_laying_out_writes_nothing(documents, home):
    lay_out(three([]), recipe(documents), home)
    assert not home.folder.exists()


def _hold(lock_file, ready, done):
    with locked(lock_file):
        ready.set()
        done.wait(30)


def test_two_builds_of_one_home_do_not_meet_and_the_lock_of_a_dead_process_is_none(documents, home):
    home.make()
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(home.lock_file, ready, done))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(BuildError, match=rf"process {holder.pid} since 20.*out=FOLDER"):
        build(three([]), recipe(documents), home)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert json.loads(home.lock_file.read_text())["pid"] == holder.pid
    build(three([]), recipe(documents), home)


def test_a_folder_that_holds_something_else_is_left_alone(documents, tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("one")
    with pytest.raises(BuildError, match="out=FOLDER"):
        build(three([]), recipe(documents), Home(precious))
    assert [file.name for file in precious.iterdir()] == ["chapter.txt"]
    with pytest.raises(BuildError, match="not a folder"):
        build(three([]), recipe(documents), Home(precious / "chapter.txt"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /proc, which nobody may write")
def test_a_place_that_cannot_be_written_is_a_disk_error(documents):
    with pytest.raises((DiskError, BuildError), match="out=FOLDER"):
        build(three([]), recipe(documents), Home(documents.parent / "documents" / "one.txt" / "home"))


def test_ctrl_c_says_how_to_go_on(documents, home):
    def interrupt(work):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="same command goes on") as caught:
        build([stage("corpus", runs=[], work=interrupt)], recipe(documents), home)
    assert caught.value.exit_code == 130


def test_sigterm_says_how_to_go_on(documents, home):
    def terminate(work):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(Interrupted, match="SIGTERM") as caught:
        build([stage("corpus", runs=[], work=terminate)], recipe(documents), home)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_home_whose_bookkeeping_was_cut_short_says_which_file(documents, home):
    stages = three([])
    build(stages, recipe(documents), home)
    file = home.folder_of(home.current()["corpus"]) / "stage.json"
    file.write_text(file.read_text()[:50])
    with pytest.raises(DataError, match=r"stage\.json"):
        build(stages, recipe(documents), home)


def test_a_reason_with_brackets_is_shown_as_it_is(documents, home):
    stages = [stage("corpus", runs=[], settings=lambda r: {"prompts": list(r.evaluate.prompts)})]
    build(stages, recipe(documents), home)
    said = build(stages, recipe(documents, evaluate={"prompts": ["[/b] [red]"]}), home)
    assert "'[/b] [red]'" in said.partition("to do:")[0]


def test_the_time_that_training_counted_outlives_a_killed_process(documents, home):
    """The clock of a killed process is lost; what its checkpoints know of is not."""
    fake = stage("pretrain", runs=[])
    trained = dataclasses.replace(fake, run=lambda work: Outcome(actual=Figures(seconds=1000.0, tokens=3)))
    build([trained], recipe(documents), home)
    assert home.current()["pretrain"].actual.seconds == 1000.0


def test_the_number_of_exam_questions_touches_only_a_corpus_that_is_kept_clear_of_them(documents):
    def settings(*sources, questions, **corpus):
        return CORPUS.settings(
            Recipe.model_validate(
                {"corpus": {"sources": [*sources], **corpus}, "evaluate": {"exam_questions": questions}}
            )
        )

    folder, world = {"kind": "folder", "path": str(documents)}, {"kind": "world"}
    assert settings(folder, questions=10) == settings(folder, questions=20)
    assert settings(folder, world, questions=10) != settings(folder, world, questions=20)
    clean = {"decontaminate": False}
    assert settings(folder, world, questions=10, **clean) == settings(folder, world, questions=20, **clean)


def test_documents_whose_names_are_not_utf8_are_read_and_told_apart(documents, home):
    for name in ("你", "我"):
        place = os.fsencode(documents) + b"/" + name.encode("gb18030") + b".txt"
        try:
            with open(place, "w", encoding="utf-8") as file:
                file.write(name)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
    runs = []
    build(three(runs), recipe(documents), home)
    build(three(runs), recipe(documents), home)
    assert runs == ["corpus", "pretrain", "sft"]
    assert len(home_inputs(home)["corpus.sources.0"]) == 4
    with open(place, "w", encoding="utf-8") as file:
        file.write("changed")
    build(three(runs), recipe(documents), home)
    assert runs == ["corpus", "pretrain", "sft"] * 2


def home_inputs(home):
    return json.loads((home.folder_of(home.current()["corpus"]) / INPUTS_FILE).read_text("utf-8"))


@pytest.mark.parametrize("name", ["stage.json", "plan.json"])
def test_bookkeeping_of_another_version_is_named(documents, home, name):
    build(three([]), recipe(documents), home)
    folder = home.folder_of(home.current()["corpus"])
    if name == "plan.json":
        (folder / "stage.json").unlink()
    (folder / name).write_text('{"format": 7}')
    with pytest.raises(DataError, match=f"{name} was written by another version"):
        build(three([]), recipe(documents), home)


def test_changed_files_are_told_once(documents, home):
    build(three([]), recipe(documents), home)
    (documents / "three.txt").write_text("drei")
    assert lay_out(three([]), recipe(documents), home)[0].reason == "changed: the files of corpus.sources.0"
