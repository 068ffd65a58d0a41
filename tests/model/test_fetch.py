"""Models by name, through the real `huggingface_hub`, from a small hub on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunwu.core.errors import ModelError
from dunwu.model.families import config_to_hf
from dunwu.model.fetch import is_hub_name, model_folder

from .helpers import TINY
from .hub_server import COMMIT, GATED, Hub

NAME = "someone/tiny"
CHUNK = 10 << 20  # what `huggingface_hub` writes at a time
WEIGHTS = bytes(range(256)) * (10 << 13)  # two chunks
PROGRAM = """
import sys
from dunwu.core.errors import ModelError
from dunwu.model.fetch import model_folder
try:
    print(model_folder(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None))
except ModelError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {
        "config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "tokenizer.json": b"{}",
        "LICENSE": b"MIT",
        "modeling_evil.py": b"raise SystemExit",
        "pytorch_model.bin": b"pickle",
        "original.pth": b"pickle",
    }
    served = Hub(NAME, files)
    yield served
    served.close()


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """What a user would set: `huggingface_hub` reads it when it is imported, hence processes of their own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **more}


def fetch(hub: Hub, home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`model_folder` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *(words or (NAME,))],
        env=environment(hub, home, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_a_model_is_fetched_from_the_mirror_without_pickle_and_code_and_then_needs_no_network(
    hub: Hub, tmp_path: Path
) -> None:
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(last_line(done.stdout))
    assert folder == tmp_path / "hub" / "models--someone--tiny" / "snapshots" / COMMIT
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    hub.fetched.clear()
    again = fetch(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert Path(last_line(again.stdout)) == folder
    hub.close()
    unplugged = fetch(hub, tmp_path)
    assert Path(last_line(unplugged.stdout)) == folder, unplugged.stderr
    assert hub.fetched == []


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.drop_after = CHUNK + 1000
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (Path(last_line(done.stdout)) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges == [f"bytes={CHUNK}-"]


def test_a_killed_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.stall_after = CHUNK + 1000
    with subprocess.Popen([sys.executable, "-c", PROGRAM, NAME], env=environment(hub, tmp_path)) as running:
        assert hub.stalled.wait(30)
        _wait_for_bytes(tmp_path, CHUNK)
        running.kill()
    hub.release.set()
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (Path(last_line(done.stdout)) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges == [f"bytes={CHUNK}-"]


def _wait_for_bytes(home: Path, count: int) -> None:
    for _ in range(300):
        if any(path.stat().st_size >= count for path in home.rglob("*.part")):
            return
        time.sleep(0.05)
    raise AssertionError("nothing was written")


def test_what_came_damaged_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.damage = True
    done = fetch(hub, tmp_path)
    assert done.returncode == 2
    assert "model.safetensors from http://127.0.0.1" in done.stderr
    assert "came damaged" in done.stderr
    assert not list(tmp_path.rglob("*.part"))
    again = fetch(hub, tmp_path)
    assert (Path(last_line(again.stdout)) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        ((NAME,), {"HF_HUB_OFFLINE": "1"}, "is not whole in the cache .* HF_HUB_OFFLINE=1 forbids to fetch it"),
        (("someone/absent",), {}, "neither a folder here nor a model at http://127.0.0.1"),
        ((NAME, "v9"), {}, "has no revision 'v9'"),
        ((GATED,), {}, "asks you to accept its licence: do so at .*HF_TOKEN"),
        (
            (NAME,),
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "could not be fetched from http://127.0.0.1:9 .*HF_ENDPOINT to a",
        ),
    ],
    ids=["offline", "absent", "revision", "gated", "unreachable"],
)
def test_what_cannot_be_fetched_says_why_and_what_to_do(
    hub: Hub, tmp_path: Path, words: tuple[str, ...], settings: dict[str, str], message: str
) -> None:
    done = fetch(hub, tmp_path, *words, **settings)
    assert done.returncode == 2
    with pytest.raises(ModelError, match=message):
        raise ModelError(done.stderr)
    assert "Traceback" not in done.stderr


def test_looking_at_a_model_of_the_hub_does_not_fetch_its_weights(hub: Hub, tmp_path: Path) -> None:
    hub.files["config.json"] = json.dumps(config_to_hf(TINY)).encode()
    done = subprocess.run(
        [sys.executable, "-m", "dunwu", "inspect", NAME],
        env=environment(hub, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert NAME in done.stdout.splitlines()[0]
    assert "no weights here" in done.stdout
    assert "model.safetensors" not in hub.fetched


def test_a_repository_without_a_config_is_no_model(hub: Hub, tmp_path: Path) -> None:
    del hub.files["config.json"]
    done = fetch(hub, tmp_path)
    assert "has no config.json, so it is not a model that dunwu reads" in done.stderr


def test_a_folder_goes_before_the_hub_and_needs_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "someone" / "tiny").mkdir(parents=True)
    assert model_folder(NAME) == Path(NAME)
    (tmp_path / "file.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"is a file; .* `dunwu import file\.bin`"):
        model_folder("file.bin")
    for absent in (Path("someone/other"), "absent", "./someone/other", "/someone/other", "a/b/c", "../x"):
        with pytest.raises(ModelError, match="does not exist"):
            model_folder(absent)


def test_names_of_the_hub() -> None:
    assert is_hub_name("Qwen/Qwen3-0.6B")
    assert not any(is_hub_name(name) for name in ("Qwen", "./a", "/a/b", "a/b/c", "~/b", "a/..", "a/", "a b/c"))
