"""A language-model client in a storm, and killed in it: what is lost, bought twice, and what does it cost of its own?

    python benchmarks/judge_storm.py                     2,000 questions, 32 at once, in a storm
    python benchmarks/judge_storm.py --kills 20          the same questions by a process that is killed 20 times
    python benchmarks/judge_storm.py --vendor anthropic --items 300

In: nothing but this machine. A server on 127.0.0.1 in a process of its own speaks the vendor's wire format; the
official SDK asks it. 30 % of its answers are 429, 10 % are 500, 2 % are connection resets, 2 % break off in the middle.
Out: the figures, beside their bars (`BARS`); status 1 if one is missed. Own time is the processor time of the whole
client process, SDK included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from bars import Bars, missed, said

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/llm"))

from fake_vendor import Answer, Script, serving_elsewhere, storm

from autocaft.llm.client import LanguageClient
from autocaft.llm.outcomes import ChatRequest
from autocaft.llm.prices import find_price
from autocaft.llm.vendors import make_vendor
from autocaft.rundir.store import RunStore

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "number", "minimum": 0, "maximum": 100}, "reason": {"type": "string"}},
    "required": ["score", "reason"],
    "additionalProperties": False,
}
REPLY = json.dumps({"score": 40, "reason": "a plain reason of usual length, " * 6})
FILLER = "a window of text that a direction is strong in, one of many that a card has. " * 80
"""About as long as a card: 6 kB."""
P_GOOD = 1 - 0.3 - 0.1 - 0.02 - 0.02
MODEL = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5"}
BARS: Bars = {
    "missing": ("at most", 0),
    "requests_per_item": ("at most", 1.05 / P_GOOD + 0.02),
    "whole_answers_bought_twice": ("at most", 0),
    "memory_growth_mb": ("at most", 50),
    "own_ms_per_item": ("at most", 10),
    "calls_of_a_warm_rerun": ("at most", 0),
    "confirmed_and_lost": ("at most", 0),
    "confirmed_and_asked_again": ("at most", 0),
}


def stormy() -> Script:
    return storm(lambda asked: Answer(REPLY))


def question(number: int, vendor: str) -> ChatRequest:
    return ChatRequest(MODEL[vendor], "You read windows.", f"{number}\n{FILLER}", SCHEMA, 400)


def open_client(vendor: str, url: str, store: RunStore, concurrency: int) -> LanguageClient:
    """The client as the judge stage makes it, with prices, so that every answer has a cost."""
    wire = make_vendor(vendor, base_url=url + ("/v1" if vendor == "openai" else ""), api_key_env=None, timeout_s=20.0)
    name = f"{vendor}:{MODEL[vendor]}"
    price = find_price(name, base_url=None, file=None)
    return LanguageClient(wire, name=name, store=store, price=price, concurrency=concurrency, max_usd=1000.0)


def ask_all(vendor: str, url: str, path: Path, numbers: range, concurrency: int) -> Counter[str]:
    """Ask every question; counts outcomes by kind."""
    with RunStore(path) as store, ThreadPoolExecutor(concurrency) as pool:
        client = open_client(vendor, url, store, concurrency)
        outcomes = pool.map(lambda number: client.ask(question(number, vendor)), numbers)
        return Counter(outcome.kind for outcome in outcomes)


def measure(vendor: str, items: int, concurrency: int, folder: Path) -> dict[str, Any]:
    """One pass through the storm, and a second one that must ask nothing."""
    process = psutil.Process()
    with serving_elsewhere(stormy) as (url, counts):
        warm_up = range(-50, 0)  # imports, thread stacks, connection pools
        ask_all(vendor, url, folder / "warm-up.sqlite", warm_up, concurrency)
        before = counts()
        rss, cpu, start = process.memory_info().rss, time.process_time(), time.monotonic()
        peak = _Peak(process)
        kinds = ask_all(vendor, url, folder / "run.sqlite", range(items), concurrency)
        seconds, cpu_s = time.monotonic() - start, time.process_time() - cpu
        peak_rss = peak.stop()
        after = counts()
        ask_all(vendor, url, folder / "run.sqlite", range(items), concurrency)
        n_warm = counts()["n_asked"] - after["n_asked"]
    with RunStore(folder / "run.sqlite") as store:
        answers, charges = store.answers(), store.charges()
    return {
        "vendor": vendor,
        "items": items,
        "in_flight": concurrency,
        "seconds": round(seconds, 1),
        "outcomes": dict(kinds),
        "missing": items - len(answers),
        "requests_per_item": (after["n_asked"] - before["n_asked"]) / items,
        "whole_answers_bought_twice": sum(n > 1 for n in after["n_answered"].values()),
        "held_for_answers_that_never_came": sum(charge.is_held for charge in charges),
        "memory_growth_mb": (peak_rss - rss) / 2**20,
        "own_ms_per_item": 1000 * cpu_s / items,
        "calls_of_a_warm_rerun": n_warm,
        "usd": sum(row.nano_usd or 0 for row in answers) / 1e9,
    }


class _Peak:
    """The largest resident memory while it runs."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._peak = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def stop(self) -> int:
        self._end.set()
        self._thread.join()
        return self._peak


def kill_often(vendor: str, items: int, concurrency: int, kills: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Judge in a child that is killed at random moments. What it had confirmed must be there, and not asked again."""
    path = folder / "killed.sqlite"
    rng = random.Random(seed)
    n_lost = n_again = 0
    done: list[int] = []
    with serving_elsewhere(stormy) as (url, counts):
        command = [sys.executable, __file__, "--child", url, "--vendor", vendor, "--items", str(items)]
        command += ["--concurrency", str(concurrency), "--store", str(path)]
        for kill in range(kills + 1):
            confirmed = set(stored(path))
            answered = counts()["n_answered"]
            child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if kill < kills:
                aim = (kill + rng.random()) * items / (kills + 1)
                while len(stored(path)) < aim and child.poll() is None:
                    time.sleep(0.01)
                time.sleep(rng.random() * 0.1)
                child.send_signal(signal.SIGKILL)
            child.wait()
            now = counts()["n_answered"]
            n_lost += len(confirmed - set(stored(path)))
            n_again += sum(now[user] > answered[user] for user in confirmed)
            done.append(len(stored(path)))
    with RunStore(path) as store:
        held = sum(charge.is_held for charge in store.charges())
    return {
        "vendor": vendor,
        "items": items,
        "kills": kills,
        "answers_after_each": done,
        "missing": items - done[-1],
        "confirmed_and_lost": n_lost,
        "confirmed_and_asked_again": n_again,
        "answered_but_not_confirmed": sum(now.values()) - done[-1],
        "held_for_answers_that_never_came": held,
    }


def stored(path: Path) -> list[str]:
    """The questions whose answers are in the store, as another process sees it."""
    import sqlite3

    if not path.is_file():
        return []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
            rows = connection.execute("SELECT json_extract(request, '$.user') FROM answers").fetchall()
    except sqlite3.OperationalError:  # the table is being made
        return []
    return [row[0] for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vendor", choices=sorted(MODEL), default="openai")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        ask_all(args.vendor, args.child, args.store, range(args.items), args.concurrency)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if args.kills:
            figures = kill_often(args.vendor, args.items, args.concurrency, args.kills, Path(folder))
        else:
            figures = measure(args.vendor, args.items, args.concurrency, Path(folder))
    for name, value in figures.items():
        sys.stdout.write(f"{name:<36} {said(name, value, BARS)}\n")
    faults = missed(figures, BARS)
    for fault in faults:
        sys.stderr.write(f"missed: {fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
