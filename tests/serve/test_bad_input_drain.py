"""A real `dunwu serve`, told to end while it answers."""

import json
import re
import signal
import subprocess
import sys
import threading

import openai
import pytest

from .live import send

CLIENTS = 6


class Process:
    """The command in a process of its own."""

    def __init__(self, folder, *options):
        command = [sys.executable, "-m", "dunwu", "serve", f"kitten={folder}", "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = []
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self.reader.start()
        shown = ""
        for line in self.process.stdout:
            shown += line
            if found := re.search(r"http://\S+/v1", line):
                self.api = found.group()
                return
        raise AssertionError(f"it ended with {self.process.wait()}: {shown}{''.join(self.log)}")

    def ends_with(self):
        code = self.process.wait(60)
        self.reader.join(10)
        return code


@pytest.fixture
def process(folder):
    one = Process(folder)
    yield one
    one.process.kill()
    one.process.wait()


def test_sigterm_under_load_finishes_what_was_begun(process):
    begun, ends, errors = threading.Semaphore(0), [], []

    def chat(streams):
        client = openai.OpenAI(base_url=process.api, api_key="none", max_retries=0, timeout=60)
        facts = {"model": "kitten", "messages": [{"role": "user", "content": "a"}], "max_tokens": 150}
        facts["extra_body"] = {"ignore_eos": True}
        try:
            if not streams:
                begun.release()
                answer = client.chat.completions.create(**facts)
                ends.append((answer.choices[0].finish_reason, answer.usage.completion_tokens))
                return
            chunks = client.chat.completions.create(**facts, stream=True, stream_options={"include_usage": True})
            reason = usage = None
            for number, chunk in enumerate(chunks):
                if number == 2:
                    begun.release()
                reason = chunk.choices[0].finish_reason if chunk.choices else reason
                usage = chunk.usage or usage
            ends.append((reason, usage.completion_tokens))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=chat, args=(number != 0,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=60)
    process.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert ends == [("length", 150)] * CLIENTS
    assert process.ends_with() == 0
    lines = [json.loads(line) for line in process.log]
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == CLIENTS
    assert {line["status"] for line in requests} == {200}
    assert sum(line["completion_tokens"] for line in requests) == CLIENTS * 150
    with pytest.raises(OSError, match="refused"):
        send(process.api)
