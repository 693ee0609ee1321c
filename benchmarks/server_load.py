"""llama-server under many streams at once: how fast it is beside the unpatched one, and what ten minutes leave behind.

    make stock-server
    python benchmarks/server_load.py MODEL.gguf --stock build/stock-server/bin/llama-server [--streams 64] [--threads 2]
        [--rounds 4] [--seconds 600] [--hang-up 0.333] [--guardian rule=paper,every=16] [--json FILE]

Each stream is one chat after the other, greedy, on a connection of its own. First the servers take turns (ours as
upstream's, ours with `--sparse none`, stock), each with the same requests: ratios of tokens per second, of the median
time to the first token, and of the processor's time, which says something on a busy machine too where no threads wait
for each other (--threads 1). Then ours alone, with Guardian, for --seconds, after a chat in each slot that fills it: a
share of the chats is hung up, some while they still wait for their first token. Printed are errors, streams without an
end, slots at work ten seconds after the last stream, and how far memory moved after the first tenth of the time. The
exit status is 1 if anything of that went wrong, or memory moved by more than 2 %.

A slot holds 256 tokens. --cache-ram is 0: prompts kept aside would fill memory up to its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from common import Ratios
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/python"))

from serving import Server

WORDS = ["rain", "river", "cloud", "stone", "wind", "tree", "light", "bird", "snow", "road", "house", "garden", "train"]
SLOT = 256  # tokens
WARM_UP = 0.1  # of the time, before memory is looked at
MOST_MOVED = 0.02
IDLE_WITHIN = 10.0  # seconds after the last stream
SOUND = ("ended", "ended by Guardian", "hung up")


@dataclass(frozen=True)
class Chat:
    """A request, and where it is hung up: after so many seconds, or so many pieces of the answer; None: not."""

    body: dict[str, Any]
    after_seconds: float | None = None
    after_pieces: int | None = None


def make_chat(rng: random.Random, hang_up: float = 0.0, *, longest: bool = False) -> Chat:
    text = " ".join(rng.choices(WORDS, k=60 if longest else rng.randint(5, 60)))
    n = 96 if longest else rng.randint(16, 96)
    body = {
        "messages": [{"role": "user", "content": f"Write a story about: {text}"}],
        "max_tokens": n,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    if rng.random() >= hang_up:
        return Chat(body)
    if rng.random() < 0.2:
        return Chat(body, after_seconds=rng.random())
    return Chat(body, after_pieces=rng.randrange(1, n))


@dataclass
class Tally:
    """What came of chats."""

    seconds: float = 0.0
    pieces: int = 0  # of answers: a token each, but for those that end within a character
    first: list[float] = field(default_factory=list)  # seconds to the first
    ends: Counter[str] = field(default_factory=Counter)
    processor: float = 0.0  # seconds that the server took of it, of all cores together
    memory: list[int] = field(default_factory=list)  # KiB that the server takes, at each second of the long run

    @property
    def rate(self) -> float:
        return self.pieces / self.seconds

    @property
    def errors(self) -> dict[str, int]:
        return {end: n for end, n in self.ends.items() if end not in SOUND}


MEASURES: dict[str, tuple[Callable[[Tally], float], str]] = {
    "tokens per second": (lambda turn: turn.rate, ">= 0.95"),
    "time to the first token": (lambda turn: statistics.median(turn.first), "<= 1.05"),
    "processor time per token": (lambda turn: turn.processor / turn.pieces, ""),
}


def moved(samples: list[int], warm_up: float = WARM_UP) -> float:
    """How far memory went up and down, as a share of the least, once it was warm."""
    warm = samples[int(len(samples) * warm_up) :]
    return (max(warm) - min(warm)) / min(warm)


async def read_answer(client: httpx.AsyncClient, chat: Chat, tally: Tally) -> str:
    """How it ended."""
    begin = time.perf_counter()
    n, end = 0, "no end"
    async with client.stream("POST", "/v1/chat/completions", json=chat.body) as response:
        if response.status_code != 200:
            return f"status {response.status_code}: {(await response.aread())[:200]!r}"
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                return f"error: {chunk['error']}"
            choice = chunk["choices"][0]
            if choice["finish_reason"]:
                end = "ended by Guardian" if choice.get("stop_reason") == "guardian" else "ended"
            if not choice["delta"].get("content"):
                continue
            n += 1
            tally.pieces += 1
            if n == 1:
                tally.first.append(time.perf_counter() - begin)
            if n == chat.after_pieces:
                return "hung up"
    return end


async def run_chat(client: httpx.AsyncClient, chat: Chat, tally: Tally) -> None:
    try:
        end = await asyncio.wait_for(read_answer(client, chat, tally), chat.after_seconds)
    except asyncio.TimeoutError:
        end = "hung up"
    except (httpx.HTTPError, ValueError, LookupError) as error:
        end = repr(error)
    tally.ends[end] += 1


@contextlib.asynccontextmanager
async def connected(server: Server, n_streams: int) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=n_streams + 1, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.address, limits=limits, timeout=300) as client:
        yield client


async def run_turn(server: Server, n_streams: int, per_stream: int, seed: int) -> Tally:
    """Each stream has so many chats, none of them hung up."""
    tally = Tally()
    async with connected(server, n_streams) as client:

        async def stream(rng: random.Random) -> None:
            for _ in range(per_stream):
                await run_chat(client, make_chat(rng), tally)

        begin, before = time.perf_counter(), processor_time(server.process.pid)
        await asyncio.gather(*(stream(random.Random(f"{seed} {i}")) for i in range(n_streams)))
        tally.seconds = time.perf_counter() - begin
        tally.processor = processor_time(server.process.pid) - before
    return tally


def processor_time(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def run_long(server: Server, n_streams: int, seconds: float, hang_up: float, seed: int) -> Tally:
    tally = Tally()
    async with connected(server, n_streams) as client:
        # memory follows the tokens: first each slot holds as many as it ever will
        bodies = [make_chat(random.Random(i), longest=True).body for i in range(n_streams)]
        await asyncio.gather(*(run_chat(client, Chat({**body, "guardian": False}), tally) for body in bodies))
        begin = time.perf_counter()

        async def stream(rng: random.Random) -> None:
            while time.perf_counter() - begin < seconds:
                await run_chat(client, make_chat(rng, hang_up), tally)

        async def watch() -> None:
            while True:
                tally.memory.append(resident(server.process.pid))
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(stream(random.Random(f"{seed} {i}")) for i in range(n_streams)))
        watching.cancel()
        tally.seconds = time.perf_counter() - begin
    return tally


def stuck_slots(server: Server) -> int:
    """Slots that are still at work when nobody has asked for anything for a while."""
    end = time.perf_counter() + IDLE_WITHIN
    while True:
        n = sum(slot["is_processing"] for slot in json.loads(server.get("/slots")))
        if n == 0 or time.perf_counter() > end:
            return n
        time.sleep(0.1)


@contextlib.contextmanager
def started(args: argparse.Namespace, *options: str, path: str = "") -> Iterator[Server]:
    size = ("--parallel", str(args.streams), "-c", str(SLOT * args.streams), "--cache-ram", "0", "--slots")
    threads = ("-t", str(args.threads), "-tb", str(args.threads))
    with tempfile.TemporaryDirectory() as folder:
        server = Server("-m", args.model, *size, *threads, *options, path=path, log=Path(folder, "log"))
        try:
            yield server.wait()
        finally:
            server.stop()


def compare(args: argparse.Namespace, console: Console) -> tuple[Ratios, dict[str, list[Tally]]]:
    with contextlib.ExitStack() as stack:
        servers = {
            "ours": stack.enter_context(started(args)),
            "ours, --sparse none": stack.enter_context(started(args, "--sparse", "none")),
            "stock": stack.enter_context(started(args, path=args.stock)),
        }
        turns: dict[str, list[Tally]] = {name: [] for name in servers}
        for round_ in range(-1, args.rounds):  # the first one warms up
            for name, server in servers.items():
                turn = asyncio.run(run_turn(server, args.streams, args.chats, round_))
                if turn.errors:
                    raise SystemExit(f"{name}: {turn.errors}")
                if round_ >= 0:
                    turns[name].append(turn)
                first = statistics.median(turn.first)
                console.print(f"{name}: {turn.pieces} tokens, {turn.rate:.0f} a second, the first after {first:.2f} s")
    ratios = Ratios()
    for name in list(servers)[:-1]:
        for what, (measure, target) in MEASURES.items():
            ours, stock = ([measure(turn) for turn in turns[n]] for n in (name, "stock"))
            ratios.add(f"{name} / stock: {what}", ours, stock, target)
    return ratios, turns


def endure(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    with started(args, "--sparse", args.sparse, "--guardian", args.guardian) as server:
        tally = asyncio.run(run_long(server, args.streams, args.seconds, args.hang_up, args.seed))
        stuck = stuck_slots(server)
        status = server.process.poll()
    far = moved(tally.memory)
    faults = {
        **tally.errors,
        **({"slots stuck": stuck} if stuck else {}),
        **({f"ended with status {status}": 1} if status is not None else {}),
        **({f"memory moved by {far:.3f}": 1} if far > MOST_MOVED else {}),
    }
    ends = ", ".join(f"{n} {end}" for end, n in tally.ends.most_common())
    console.print(
        f"ours, --sparse {args.sparse} --guardian {args.guardian}: {tally.seconds:.0f} s, {tally.rate:.0f} tokens a "
        f"second, {ends}; memory {tally.memory[-1] / 1024:.0f} MiB, "
        f"moved by {100 * far:.2f} % once warm; faults: {faults or 'none'}"
    )
    return {**vars(tally), "moved": far, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--stock", help="the unpatched llama-server; default: nothing is compared")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=4, help="of the comparison")
    parser.add_argument("--chats", type=int, default=1, help="of each stream in a turn of the comparison")
    parser.add_argument("--seconds", type=float, default=600.0, help="that ours runs alone; 0: not")
    parser.add_argument("--hang-up", type=float, default=1 / 3, help="the share of chats that are hung up")
    parser.add_argument("--guardian", default="rule=paper,every=16")
    parser.add_argument("--sparse", default="none", help="of the long run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    console = Console()
    result: dict[str, Any] = {"model": Path(args.model).name, "streams": args.streams, "threads": args.threads}
    failed = False

    if args.stock:
        ratios, turns = compare(args, console)
        console.print(ratios.table())
        result["ratios"] = ratios.rows
        result["turns"] = {name: [vars(turn) for turn in those] for name, those in turns.items()}

    if args.seconds > 0:
        result["long"] = endure(args, console)
        failed = bool(result["long"]["faults"])

    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
