"""Many clients at once against `dunwu serve` with a tiny model: none lost, memory flat, and how long they wait.

    python benchmarks/serve_load.py [--seconds 120] [--clients 200]

The server runs in a process of its own; the clients share this one and speak HTTP/1.1 over loopback by hand, so that they
cost little beside it: both share the machine's cores, which is why figures are lower than with clients elsewhere.
Of 20 requests 11 are streams read to their end, 5 whole answers, 2 text completions, and 2 streams that are left in the
middle. A client that is told to come back (429) does; an answer is lost when it ends in any other way than it should.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from common import print_figure

from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import save_model
from dunwu.tokenizer.bpe import train_tokenizer

KINDS = ("stream",) * 11 + ("whole",) * 5 + ("text",) * 2 + ("leave",) * 2
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "and",
    "then",
    "it",
    "was",
    "seen",
    "by",
    "some",
    "one",
    "who",
    "knew",
]
SAMPLE_S = 1.0
ANSWER_TOKENS = (8, 48)


@dataclass(slots=True)
class Tally:
    """What the clients saw. Times in seconds."""

    first_s: list[float] = field(default_factory=list[float])
    whole_s: list[float] = field(default_factory=list[float])
    tokens: int = 0
    done: Counter[str] = field(default_factory=Counter[str])
    told_to_wait: int = 0
    lost: list[str] = field(default_factory=list[str])


def make_model(folder: Path) -> None:
    """Random weights: 4 layers, width 128, a vocabulary of 512."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([" ".join(WORDS) * 20], vocab_size=512, out=folder)
    config = DecoderConfig(
        architecture="qwen3",
        qk_norm="head",
        vocab_size=tokenizer.vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    save_model(new_decoder(config, seed=1).requires_grad_(False), folder)
    (folder / "dunwu.json").write_text(json.dumps({"instruction_tuned": True}))


class Server:
    """`dunwu serve` as users run it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port
        self.watched = psutil.Process(process.pid)
        self.rss_bytes: list[int] = []
        self.cpu_s = 0.0

    @classmethod
    async def start(cls, folder: Path, log: Path) -> "Server":
        command = [sys.executable, "-m", "dunwu", "serve", f"tiny={folder}", "--port", "0", "--cache", "32MB"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log.open("wb"))
        assert process.stdout is not None
        while line := (await process.stdout.readline()).decode():
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                return cls(process, int(found.group(1)))
        raise RuntimeError(f"the server ended with {await process.wait()}:\n{log.read_text()}")

    async def watch(self) -> None:
        """Note the memory each second."""
        while True:
            self.rss_bytes.append(self.watched.memory_info().rss)
            await asyncio.sleep(SAMPLE_S)

    async def metrics(self) -> dict[str, float]:
        """The samples that have no more than the model for a label."""
        _, body = await whole_answer(self.port, "GET", "/metrics", b"")
        pairs = (line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#"))
        return {re.sub(r'\{model="[^"]*"\}', "", name): float(value) for name, _, value in pairs}

    async def stop(self) -> int:
        """End it with SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 60)


async def ask(port: int, method: str, path: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """Send a request; gives the answer after its status line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}\r\n".encode() + body)
    await writer.drain()
    status = int((await reader.readline()).split()[1])
    while (await reader.readline()).strip():
        pass
    return reader, writer, status


async def whole_answer(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body."""
    reader, writer, status = await ask(port, method, path, body)
    try:
        return status, await reader.read()
    finally:
        writer.close()


class Client:
    """Asks one thing after another until the time is over."""

    def __init__(self, port: int, number: int, tally: Tally) -> None:
        self.port, self.tally, self.random = port, tally, random.Random(number)

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            kind = self.random.choice(KINDS)
            try:
                await asyncio.wait_for(self._once(kind), 300)
            except Exception as error:
                self.tally.lost.append(f"{kind}: {type(error).__name__}: {error}"[:300])

    async def _once(self, kind: str) -> None:
        path, body, wanted = self._request(kind)
        start = time.monotonic()
        if kind in ("whole", "text"):
            status, data = await whole_answer(self.port, "POST", path, body)
            if await self._must_wait(status):
                return
            answer = json.loads(data)
            if status != 200 or answer["usage"]["completion_tokens"] != wanted:
                raise RuntimeError(f"status {status}: {data[:200]!r}")
            self.tally.tokens += wanted
        elif await self._stream(path, body, wanted, start, leaves=kind == "leave"):
            return
        self.tally.done[kind] += 1
        if kind != "leave":
            self.tally.whole_s.append(time.monotonic() - start)

    async def _stream(self, path: str, body: bytes, wanted: int, start: float, *, leaves: bool) -> bool:
        """Read a stream, or leave it; whether it was told to come back instead."""
        reader, writer, status = await ask(self.port, "POST", path, body)
        try:
            if status != 200:
                if await self._must_wait(status):
                    return True
                raise RuntimeError(f"status {status}: {(await reader.read())[:200]!r}")
            first, last, usage = True, b"", None
            async for line in reader:
                if not line.startswith(b"data: "):
                    continue
                last = line[6:].strip()
                if last == b"[DONE]":
                    break
                event = json.loads(last)
                if "error" in event:
                    raise RuntimeError(str(event)[:200])
                if first and event["choices"] and event["choices"][0]["delta"].get("content"):
                    first = False
                    self.tally.first_s.append(time.monotonic() - start)
                    if leaves:
                        return False
                usage = event.get("usage") or usage
            if last != b"[DONE]" or usage is None or usage["completion_tokens"] != wanted:
                raise RuntimeError(f"the stream ended with {last[:100]!r} and {usage}")
            self.tally.tokens += wanted
            return False
        finally:
            writer.close()

    async def _must_wait(self, status: int) -> bool:
        if status == 429:
            self.tally.told_to_wait += 1
            await asyncio.sleep(1)
        return status == 429

    def _request(self, kind: str) -> tuple[str, bytes, int]:
        """Path, body and the tokens that must come."""
        wanted = self.random.randint(*ANSWER_TOKENS)
        text = " ".join(self.random.choices(WORDS, k=self.random.randint(4, 60)))
        facts = {"model": "tiny", "max_tokens": wanted, "ignore_eos": True, "seed": self.random.randrange(1 << 30)}
        if kind == "text":
            return "/v1/completions", json.dumps(facts | {"prompt": text}).encode(), wanted
        facts["messages"] = [{"role": "user", "content": text}]
        if kind != "whole":
            facts |= {"stream": True, "stream_options": {"include_usage": True}}
        return "/v1/chat/completions", json.dumps(facts).encode(), wanted


def quantile(values: list[float], part: float) -> float:
    """Of sorted values, the nearest rank."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


async def measure(clients: int, seconds: float, folder: Path) -> None:
    """Run it all and print the figures."""
    make_model(folder / "tiny")
    server = await Server.start(folder / "tiny", folder / "log")
    tally = Tally()
    await Client(server.port, 0, tally).run(time.monotonic() + 2)  # warm
    tally = Tally()
    watch = asyncio.create_task(server.watch())
    cpu, start = sum(server.watched.cpu_times()[:2]), time.monotonic()
    await asyncio.gather(*(Client(server.port, number, tally).run(start + seconds) for number in range(clients)))
    elapsed = time.monotonic() - start
    cpu = sum(server.watched.cpu_times()[:2]) - cpu
    watch.cancel()
    await asyncio.sleep(0.5)
    metrics = await server.metrics()
    code = await server.stop()
    log = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    report(tally, server, metrics, log, code, clients=clients, elapsed=elapsed, cpu=cpu)


def report(
    tally: Tally,
    server: Server,
    metrics: dict[str, float],
    log: list[dict[str, object]],
    code: int,
    *,
    clients: int,
    elapsed: float,
    cpu: float,
) -> None:
    """One line a figure."""
    facts = {"clients": clients, "seconds": round(elapsed, 1), "mix": dict(tally.done)}
    faults = [line for line in log if line["level"] == "error"]
    for lost in tally.lost[:5]:
        print(lost, file=sys.stderr)
    for fault in faults[:5]:
        print(fault, file=sys.stderr)
    held = metrics["dunwu_engine_blocks"] - metrics["dunwu_engine_free_blocks"]
    print_figure(
        "serve_lost_requests",
        [len(tally.lost)],
        unit="requests",
        target="0",
        **facts,
        told_to_wait=tally.told_to_wait,
        server_faults=len(faults),
        blocks_held_after=held,
        exit_code=code,
    )
    print_figure("serve_requests_per_s", [tally.done.total() / elapsed], unit="requests/s", target="printed", **facts)
    print_figure(
        "serve_tokens_per_s",
        [tally.tokens / elapsed],
        unit="tokens/s",
        target="printed",
        **facts,
        server_cpu_cores=round(cpu / elapsed, 2),
    )
    for name, values in (("first_token", tally.first_s), ("answer", tally.whole_s)):
        for part in (0.5, 0.99):
            print_figure(
                f"serve_{name}_p{part * 100:.0f}",
                [quantile(values, part)],
                unit="s",
                target="printed",
                of=len(values),
                mean=round(statistics.fmean(values), 4),
                **facts,
            )
    samples = server.rss_bytes
    tenth = max(1, len(samples) // 10)
    parts = {
        "start": samples[tenth : 2 * tenth],
        "middle": samples[len(samples) // 2 - tenth // 2 :][:tenth],
        "end": samples[-tenth:],
    }
    print_figure(
        "serve_memory_growth",
        [statistics.median(parts["end"]) / statistics.median(parts["middle"])],
        target="<=1.02",
        **{f"rss_{name}_mib": round(statistics.median(values) / 2**20, 1) for name, values in parts.items()},
        **facts,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(arguments.clients, arguments.seconds, Path(folder)))


if __name__ == "__main__":
    main()
