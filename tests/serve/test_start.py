import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dunwu.serve.models import ModelSource, Shelf
from dunwu.serve.run import greeting, serve, url_of
from dunwu.serve.settings import ServeSettings


def test_a_model_that_breaks_on_reading_ends_the_server():
    def load(_: ModelSource):
        raise RuntimeError("the weights are torn")

    with pytest.raises(RuntimeError, match="torn"):
        serve(Shelf([ModelSource(id="m", folder=Path("nowhere"))], load), ServeSettings(port=0))


@pytest.mark.parametrize("keyed", [True, False])
def test_the_call_that_is_offered_fits_the_model(keyed):
    for chats, path, field in ((True, "/v1/chat/completions", "messages"), (False, "/v1/completions", "prompt")):
        text = greeting(["owl", "fox"], "http://127.0.0.1:80", chats=chats, keyed=keyed)
        assert "http://127.0.0.1:80/\n" in text
        words = shlex.split(text.split("try it:")[1].split("Ctrl-C")[0])
        assert words[1].endswith(path)
        assert set(json.loads(words[words.index("-d") + 1])) == {"model", field}
        assert any("Authorization" in word for word in words) == keyed


def test_an_address_for_all_is_shown_as_one_that_a_browser_can_open():
    assert url_of("0.0.0.0", 8000) == "http://127.0.0.1:8000"
    assert url_of("::", 8000) == "http://[::1]:8000"
    assert url_of("10.0.0.7", 80) == "http://10.0.0.7:80"


def test_the_end_is_quiet_where_nobody_reads_what_is_said(folder):
    server = subprocess.Popen(
        [sys.executable, "-m", "dunwu", "serve", str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    assert server.stdout.readline().startswith("models:")
    server.stdout.close()
    server.send_signal(signal.SIGTERM)
    server.stdout = None
    assert server.communicate(timeout=60)[1] == ""
    assert server.returncode == 0
