import asyncio
import json
import os
import stat
import sys
import threading

import pytest

from dunwu.cli import run
from dunwu.core.errors import DataError, RecipeError
from dunwu.serve.keys import Keyring, add_key, read_keys, remove_key

from .guarded import Call, Echo

ENVIRONMENT_KEY = "a-key-from-the-environment"


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def ask(echo, path="/echo", **facts):
    return asyncio.run(Call(path, b'"hello"', **facts).to(echo))


def test_a_key_opens_the_server_and_its_file_does_not_hold_it(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "ann")
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    call = ask(Echo(keyring=Keyring(path)), headers=bearer(key))
    assert call.status == 200
    assert json.loads(call.body)["key"] == "ann"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("dw-wrong"),
        bearer(""),
        {"authorization": "Basic Og=="},
        {"authorization": "Bearer"},
        bearer("\xff" * 9),
    ],
)
def test_without_the_right_key_the_answer_is_401_in_openai_s_form(tmp_path, headers):
    path = tmp_path / "keys.json"
    add_key(path, "ann")
    call = ask(Echo(keyring=Keyring(path)), headers=headers)
    assert call.status == 401
    assert call.headers["www-authenticate"].startswith("Bearer")
    assert call.error["code"] == "invalid_api_key"
    assert call.taken == 0  # strangers make us read nothing


def test_health_is_open_and_metrics_are_not(tmp_path):
    echo = Echo(keyring=Keyring(environment=ENVIRONMENT_KEY))
    assert ask(echo, "/health", method="GET").status == 200
    assert ask(echo, "/metrics", method="GET").status == 401
    assert ask(echo, "/metrics", method="GET", headers=bearer(ENVIRONMENT_KEY)).status == 200
    assert ask(Echo(), "/metrics", method="GET").status == 200  # where no key is needed at all


def test_keys_come_and_go_while_the_server_runs(tmp_path):
    path = tmp_path / "keys.json"
    first = add_key(path, "first")
    told = []
    keyring = Keyring(path, tell=told.append)
    second = add_key(path, "second")
    assert keyring.find(second).name == "second"
    remove_key(path, "first")
    assert keyring.find(first) is None
    assert keyring.find(second).name == "second"
    path.write_text("{")
    assert keyring.find(second).name == "second"
    assert "stay valid" in told.pop()
    path.unlink()
    assert keyring.find(second) is None
    assert keyring.closed
    assert "is gone" in told.pop()
    assert not told


def test_a_file_without_keys_opens_nothing(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "ann")
    remove_key(path, "ann")
    assert ask(Echo(keyring=Keyring(path)), headers=bearer(key)).status == 401


def test_names_are_unique_and_plain(tmp_path):
    path = tmp_path / "keys.json"
    add_key(path, "ann")
    for name in ("ann", "", "a b", "-x", "a" * 65, "environment", "a\n"):
        with pytest.raises(RecipeError):
            add_key(path, name)
    with pytest.raises(RecipeError, match="ann"):
        remove_key(path, "bob")
    assert [key.name for key in read_keys(path)] == ["ann"]


def test_keys_added_at_once_are_all_kept(tmp_path):
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=add_key, args=(path, f"key{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(path)} == {f"key{number}" for number in range(8)}


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "keys.json"
    path.touch(0o600)
    path.write_text(json.dumps({"keys": [{"name": "ann"}]}))
    with pytest.raises(DataError, match=r"keys\.json: keys\.0\.salt"):
        Keyring(path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"keys\.json: Invalid JSON.*every key that is in use is lost"):
        Keyring(path)
    with pytest.raises(DataError, match="does not exist"):
        Keyring(tmp_path / "none.json")


def test_a_file_that_others_can_change_opens_nothing_and_one_that_they_can_read_is_told(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "ann")
    told = []
    path.chmod(0o644)
    assert Keyring(path, tell=told.append).find(key)
    assert "can be read by others (mode 644)" in told.pop()
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        with pytest.raises(DataError, match=f"can be written by others \\(mode {mode:o}\\)"):
            Keyring(path)
        with pytest.raises(DataError):
            add_key(path, "bob")
    path.chmod(0o600)
    keyring = Keyring(path, tell=told.append)
    path.chmod(0o666)
    assert keyring.find(key)
    assert "stay valid" in told.pop()
    path.chmod(0o600)
    assert keyring.find(key)
    assert not told


def test_a_short_key_of_the_environment_is_refused():
    with pytest.raises(RecipeError, match="16"):
        Keyring(environment="dev")


def test_a_key_never_reaches_the_log(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "ann")
    echo = Echo(keyring=Keyring(path), log_prompts=True)
    ask(echo, headers=bearer(key))
    ask(echo, headers=bearer("dw-wrong-but-secret"))
    text = json.dumps(echo.logged())
    assert key not in text
    assert "wrong-but-secret" not in text
    assert '"key": "ann"' in text


def test_keys_from_the_command_line(tmp_path, capsys):
    file = str(tmp_path / "keys.json")
    assert run(["keys", "add", "ann", "--file", file, "--tokens-per-minute", "5000"]) == 0
    key = capsys.readouterr().out.strip()
    assert Keyring(tmp_path / "keys.json").find(key).tokens_per_minute == 5000
    assert run(["keys", "list", "--file", file]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("ann  since 20")
    assert "5000 tokens a minute" in shown
    assert run(["keys", "remove", "bob", "--file", file]) == 2
    assert run(["keys", "remove", "ann", "--file", file]) == 0
    assert read_keys(tmp_path / "keys.json") == ()
    assert run(["keys", "add", "bob", "--file", file, "--requests-per-minute", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_without_its_libraries_a_server_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "starlette", None)
    for name in [
        name for name in sys.modules if name.startswith(("starlette.", "dunwu.serve", "dunwu.cli.keyholders"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    assert run(["keys", "list"]) == 2
    assert "pip install 'dunwu[serve]'" in capsys.readouterr().err


def test_an_unreadable_file_is_told(tmp_path):
    if os.getuid() == 0:
        pytest.skip("root reads every file")
    path = tmp_path / "keys.json"
    add_key(path, "ann")
    path.chmod(0)
    with pytest.raises((DataError, OSError)):
        Keyring(path)
