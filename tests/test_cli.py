"""The command line, from help to a finished model, and the README's examples."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from dunwu.build.home import Home
from dunwu.cli import app, run, serving
from dunwu.core.load import load_recipe
from dunwu.model import fetch

ROOT = Path(__file__).parent.parent
TINY = [
    "pretrain.tokens=24000",
    "pretrain.batch_tokens=1024",
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "model.context_length=64",
    "tokenizer.vocab_size=400",
    "evaluate.heldout_bytes=3000",
    "evaluate.samples=1",
]
SMALL_SFT = ["sft.sources=[{kind: file, path: talk.jsonl}]", "sft.epochs=2", "sft.batch_tokens=512"]


def write_documents(folder: Path, *, count: int = 40) -> None:
    """Real English that every Python has: its own help topics."""
    folder.mkdir()
    for name in sorted(topics, key=lambda name: -len(topics[name]))[:count]:
        (folder / f"{name}.txt").write_text(topics[name][:4000], "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with documents and a finished build of them."""
    folder = tmp_path_factory.mktemp("place")
    before, cache = Path.cwd(), os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.chdir(folder)
    write_documents(folder / "my-folder")
    rows = [{"prompt": f"Who found plum {i}?", "completion": f"Maria found plum {i}."} for i in range(60)]
    (folder / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert run(["build", "my-folder", "budget=30min", *TINY, *SMALL_SFT]) == 0
    yield folder
    os.chdir(before)
    if cache is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = cache


def test_help_is_quick_because_it_does_not_import_torch():
    program = (
        "import sys; from dunwu.cli import run; code = run(sys.argv[1:]); "
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    for arguments in (["--help"], ["build", "--help"], ["chat", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_a_build_of_a_folder_leaves_a_model_that_talks_and_a_report(place):
    home = place / "builds" / "my-folder"
    facts = json.loads((home / "model" / "dunwu.json").read_text())
    assert facts["instruction_tuned"] is True
    assert facts["lineage"]["sft"]["sha256"]
    assert facts["lineage"]["corpus"]["needs"] == {}
    assert list(facts["lineage"]) == ["raw_files", "corpus", "tokenizer", "pretrain", "sft", "evaluate"]
    assert {"pretrain bits_per_byte", "sft bits_per_byte", "xz"} <= set(facts["scores"])
    assert (home / "report.html").stat().st_size > 10_000


def test_transformers_reads_the_finished_model_as_it_is(place):
    transformers = pytest.importorskip("transformers")
    import torch

    from dunwu.model.hub import load_model

    folder = place / "builds" / "my-folder" / "model"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([transformers.AutoTokenizer.from_pretrained(folder)("The class statement")["input_ids"]])
    ours = load_model(folder)
    assert torch.allclose(theirs(ids).logits, ours.logits(ours(ids)), atol=1e-4)
    assert theirs.generation_config.eos_token_id == [2, 0]


def test_the_same_command_again_does_nothing_and_a_change_does_what_it_must(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    same = ["my-folder", "budget=30min", *TINY, *SMALL_SFT]
    assert run(["build", *same]) == 0
    assert capsys.readouterr().err.count("done before") == 6
    assert run(["explain", "pretrain", *same]) == 0
    assert "would not run" in capsys.readouterr().out
    changed = [word.replace("sft.epochs=2", "sft.epochs=3") for word in same]
    assert run(["explain", "sft", *changed]) == 0
    assert "epochs: 2.0 → 3.0" in capsys.readouterr().out
    assert run(["plan", *changed]) == 0
    rows = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert [rows[name] for name in ("corpus", "tokenizer", "pretrain")] == ["done"] * 3
    assert [rows[name] for name in ("sft", "evaluate", "report")] == ["run"] * 3


def test_a_home_is_a_recipe_too(place, capsys):
    assert run(["build", "builds/my-folder"]) == 0
    assert capsys.readouterr().err.count("done before") == 6
    assert run(["status"]) == 0
    assert capsys.readouterr().out.count("done in") == 6


def test_a_removed_report_is_written_again_and_nothing_else(place, capsys):
    (place / "builds" / "my-folder" / "report.html").unlink()
    assert run(["build", "builds/my-folder"]) == 0
    assert capsys.readouterr().err.count("done before") == 5
    assert (place / "builds" / "my-folder" / "report.html").is_file()


def test_generate_is_repeatable_and_chat_reads_a_conversation(place, capsys, monkeypatch):
    words = []
    for seed in ("1", "1"):
        arguments = [
            "builds/my-folder",
            "Who found plum 3?",
            "--seed",
            seed,
            "--temperature",
            "1",
            "--max-tokens",
            "20",
        ]
        assert run(["generate", *arguments]) == 0
        words.append(capsys.readouterr().out)
    assert words[0] == words[1]
    lines = iter(["Who found plum 7?", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    assert run(["chat", "builds/my-folder/model", "--temperature", "0", "--max-tokens", "5"]) == 0


def test_a_base_model_continues_what_it_is_given(place, capsys):
    pretrained = next((place / "builds" / "my-folder" / "stages").glob("pretrain-*"))
    assert run(["generate", str(pretrained), "The class", "--raw", "--max-tokens", "4", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.startswith("The class")


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_an_answer_keeps_to_its_bound_and_nothing_else_is_printed(place, capsys, raw):
    pytest.importorskip("llguidance")
    (place / "schema.json").write_text('{"enum": ["plum", 7]}', "utf-8")
    asked = ["generate", "builds/my-folder", "Who found plum 3?", "--seed", "1", *raw]
    assert run([*asked, "--schema", "schema.json"]) == 0
    assert json.loads(capsys.readouterr().out) in ("plum", 7)
    assert run([*asked, "--regex", "(ab|cd){2}-\\d"]) == 0
    assert re.fullmatch(r"(ab|cd){2}-[0-9]\n", capsys.readouterr().out)
    assert run([*asked, "--choice", "Maria", "--choice", "Johann Sebastian"]) == 0
    said = capsys.readouterr()
    assert said.out in ("Maria\n", "Johann Sebastian\n")
    assert "Cut short" not in said.err
    assert run([*asked, "--choice", "Maria found the plum", "--max-tokens", "2"]) == 0
    said = capsys.readouterr()
    assert "Maria found the plum".startswith(said.out.rstrip("\n"))
    assert "Cut short" in said.err


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (["--schema", "nowhere.json"], "nowhere.json cannot be read (No such file"),
        (["--schema", "my-folder"], "cannot be read (Is a directory"),
        (["--schema", "latin.json"], "latin.json is not UTF-8"),
        (["--schema", "talk.jsonl"], "is no JSON"),
        (["--schema", "never.json"], "json_schema"),
        (["--regex", "("], "regex '('"),
        (["--regex", "a", "--choice", "b"], "--regex and --choice are given together"),
        (["--choice", ""], "none empty"),
    ],
)
def test_a_bound_that_cannot_be_kept_is_refused(place, capsys, bounds, expected):
    pytest.importorskip("llguidance")
    (place / "latin.json").write_bytes('{"const": "é"}'.encode("latin-1"))
    (place / "never.json").write_text('{"type": "nothing"}', "utf-8")
    assert run(["generate", "builds/my-folder", "hello", *bounds]) == 2
    said = capsys.readouterr()
    assert (expected in said.err, said.out) == (True, "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build", "my-folder", "modl.hidden_size=3"], "did you mean model.hidden_size?"),
        (["build", "my-folder", "pretrain.tokens=many"], "must be a whole number or 'auto'"),
        (["build", "nowhere"], "nowhere does not exist"),
        (["build", "my-folder", "talk.jsonl"], "one name too many"),
        (["build", "my-folder", "budget=0s"], "budget=0s"),
        (["build", "my-folder", "budget=3s"], "the least that works here is about"),
        (["build", "my-folder", "memory=1MB"], "memory=1MB"),
        (["build", "my-folder", "model.num_attention_heads=4", "model.num_key_value_heads=3", *TINY], "not divisible"),
        (["build", "my-folder", "out=my-folder"], "out=FOLDER"),
        (["plan", "empty"], "holds no files; put documents there"),
        (["generate", "nowhere", "hello"], "nowhere does not exist"),
        (["generate", "my-folder", "hello"], "give the folder of a model"),
        (["explain", "sft", "my-folder"], "there is no stage 'sft'"),
        (["biuld"], 'Did you mean "build"?'),
        (["generate"], "requires an argument"),
        (["generate", "my-folder", "hello", "--max-tokens", "0"], "--max-tokens"),
    ],
)
def test_a_mistake_ends_in_one_clean_message(place, capsys, arguments, expected):
    (place / "empty").mkdir(exist_ok=True)
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said


def test_escapes_in_a_name_are_shown_and_not_obeyed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "a\x1b[31mb"
    folder.mkdir()
    assert run(["plan", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "a␛[31mb holds no files" in said
    assert "\x1b" not in said


def test_documents_that_moved_away_do_not_hide_the_other_builds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write_documents(tmp_path / name, count=1)
        home = Home(tmp_path / "builds" / name)
        home.make()
        home.recipe_file.write_text(f"corpus: {{sources: [{{path: {tmp_path / name}, kind: folder}}]}}", "utf-8")
    (tmp_path / "one").rename(tmp_path / "moved")
    assert run(["status"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'one'} does not exist" in said
    assert "builds/two\n  corpus     to do: never run" in said


def test_an_error_of_our_own_leaves_its_trace_in_a_file(place, capsys, monkeypatch):
    monkeypatch.setattr("dunwu.cli.building.run_build", lambda *given, **named: 1 / 0)
    assert run(["build", "my-folder", "out=broken"]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "Traceback" not in said
    (log,) = (place / "broken" / "logs").iterdir()
    assert "run_build" in log.read_text()


def test_the_shipped_recipe_is_found_and_valid():
    from dunwu.cli.target import shipped_recipe

    assert shipped_recipe().resolve() == (ROOT / "recipes" / "default.yaml").resolve()
    recipe = load_recipe(shipped_recipe())
    assert recipe.name == "demo"


# The README's examples


def blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    shell = [line for block in blocks(text) for line in block.splitlines() if line.startswith(("dunwu ", "make "))]
    return shell + re.findall(r"`(dunwu [^`]+)`", text)


README = (ROOT / "README.md").read_text("utf-8")


def test_the_two_readmes_show_the_same_examples():
    chinese = (ROOT / "README.zh-CN.md").read_text("utf-8")
    assert blocks(README) == blocks(chinese)
    assert commands(README) == commands(chinese)
    assert README.count("\n## ") == chinese.count("\n## ")


def test_the_readmes_recipe_is_valid(tmp_path):
    (recipe,) = [block for block in blocks(README) if "corpus:" in block]
    file = tmp_path / "letters.yaml"
    file.write_text(recipe, "utf-8")
    assert load_recipe(file).sft.sources[0].path == str(tmp_path / "questions-and-answers.jsonl")


def test_the_readmes_commands_work_as_written(place, capsys, monkeypatch):
    ran = set()
    monkeypatch.setattr("builtins.input", lambda prompt="": "/exit")
    write_documents(place / "letters", count=30)
    (place / "questions-and-answers.jsonl").write_text((place / "talk.jsonl").read_text())
    (recipe,) = [block for block in blocks(README) if "corpus:" in block]
    (place / "letters.yaml").write_text(recipe, "utf-8")

    def stands_in_for_the_hub(*_: object) -> Path:
        if not (place / "hub").is_dir():
            shutil.copytree(place / "builds" / "my-folder" / "model", place / "hub")
        return place / "hub"

    monkeypatch.setattr(fetch, "_download", stands_in_for_the_hub)

    async def opens_and_closes(shelf) -> None:
        await shelf.start()
        assert shelf.state == "ready"
        await shelf.close()

    monkeypatch.setattr(serving, "run_server", lambda shelf, settings: asyncio.run(opens_and_closes(shelf)))
    for command in commands(README):
        words = re.findall(r'"[^"]*"|\S+', command)
        arguments = [word.strip('"') for word in words[1:]]
        if words[0] == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            continue
        if arguments[0] in (
            "align",
            "best",
            "chain",
            "compare",
            "eval",
            "lab",
            "make",
            "predict",
            "prompt",
            "reward",
            "score",
            "tune",
        ):  # names stand for what is not here: run in tests/test_docs_*.py, tests/prompt, tests/align and tests/build
            app.parse_args(arguments, exit_on_error=False)
            continue
        sized = [*TINY, *SMALL_SFT] if arguments[0] in ("build", "plan", "explain") else []
        own = {word.partition("=")[0] for word in arguments}
        own |= {"tokenizer.vocab_size"} if "base" in own else set()
        sized = [word for word in sized if word.partition("=")[0] not in own]
        assert run([*arguments, *sized]) == 0, (command, capsys.readouterr().err)
        ran.add(arguments[0])
    assert ran == {
        "build", "plan", "status", "explain", "chat", "generate", "inspect", "export", "serve", "keys", "quantise",
        "show-batch", "delta", "doctor",
    }  # fmt: skip
