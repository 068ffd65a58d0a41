"""A whole build killed with `kill -9` at three moments ends in the same weights as one that was left alone."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.test_cli import TINY, write_documents

WORDS = ["build", "my-folder", *(word for word in TINY if not word.startswith("pretrain.tokens"))]
WORDS += ["pretrain.tokens=150000", "pretrain.checkpoint_every_s=0.2", "evaluate.baselines=false"]


def start(folder, home):
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dunwu", *WORDS, f"out={home}"]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def weights(home):
    return hashlib.sha256((home / "model" / "model.safetensors").read_bytes()).hexdigest()


def wait_for(path_pattern, folder, process):
    while not list(folder.glob(path_pattern)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_build_killed_three_times_ends_in_the_same_weights(tmp_path):
    write_documents(tmp_path / "my-folder")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(tmp_path, whole)
    process.communicate(timeout=300)
    assert process.returncode == 0
    rng = random.Random(time.time_ns())
    for pattern in (
        "stages/tokenizer-*",
        "stages/pretrain-*/checkpoints/step-*1*",
        "stages/pretrain-*/checkpoints/step-*",
    ):
        process = start(tmp_path, broken)
        wait_for(pattern, broken, process)
        time.sleep(rng.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it had ended already: train for longer"
    said = start(tmp_path, broken).communicate(timeout=300)[1]
    assert "interrupted and goes on" in said
    assert weights(broken) == weights(whole)
    lineage = [json.loads((home / "model" / "dunwu.json").read_text())["lineage"] for home in (whole, broken)]
    assert lineage[0]["pretrain"] == lineage[1]["pretrain"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_build_asked_to_stop_saves_and_says_how_to_go_on(tmp_path, number, code):
    write_documents(tmp_path / "my-folder")
    process = start(tmp_path, tmp_path / "home")
    wait_for("stages/pretrain-*/checkpoints/step-*1*", tmp_path / "home", process)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "saved at step" in said
    assert "run the same command again" in said
    assert "Traceback" not in said
