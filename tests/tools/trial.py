"""The field trial: what independent testers, bad cards and bad clients would try, on both engines, as one table.

Each row runs one of the test programs on optimised code, with more of it than `make test` has time for. A row is a
breach if its program fails, if no test of it ran, or if something in it was skipped. Exits with 1 on any breach.
ONLY=word[,word] runs the rows whose names contain a word; TRIAL_SCALE=0.2 does a fifth of everything that is counted.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARGO = os.environ.get("CARGO", "cargo")
SCALE = float(os.environ.get("TRIAL_SCALE", "1"))
LOGS = ROOT / "target" / "trial"


class Row:
    """One row: a test program, which of its tests, and how much of them."""

    def __init__(self, name, program, tests=(), ignored=False, threads=None, **amounts):
        self.name, self.program, self.tests = name, program, tests
        self.ignored, self.threads, self.amounts = ignored, threads, amounts

    def run(self, binary):
        environment = dict(os.environ)
        for key, amount in self.amounts.items():
            environment[key] = str(max(1, round(amount * SCALE)))
        words = [binary, "--nocapture", *self.tests]
        if self.ignored:
            words.append("--include-ignored")
        if self.threads:
            words += ["--test-threads", str(self.threads)]
        log = LOGS / (re.sub(r"\W+", "-", self.name) + ".log")
        began = time.monotonic()
        with log.open("wb") as out:
            code = subprocess.run(words, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode
        seconds = time.monotonic() - began
        text = log.read_text(errors="replace")
        passed = [int(found) for found in re.findall(r"^test result: \S+ (\d+) passed", text, re.M)]
        breaches = []
        if code:
            failed = re.findall(r"^test (\S+) \.\.\. FAILED", text, re.M) or re.findall(r"^    (\S+)$", text, re.M)
            breaches.append(f"failed (exit {code}): {', '.join(dict.fromkeys(failed)) or 'see the log'}")
        if not sum(passed):
            breaches.append("no test ran")
        skipped = re.findall(r"SKIPPED: (.*)", text)
        if skipped:
            breaches.append(f"skipped: {skipped[0]}")
        details = [line.split("trial: ", 1)[1] for line in text.splitlines() if "trial: " in line]
        return seconds, sum(passed), breaches, details, log


ROWS = [
    Row("stale reads and lost increments, journals rotating", "release", ["fresh::"], FRESH_ROTATIONS=15),
    Row("two keys of one batch are never seen apart", "release", ["together::"]),
    Row("power cuts, and operations of the card that fail", "campaign", threads=1, POWER_CUTS=40, FAULT_RUNS=120),
    Row("what the card promises to the whole program", "release", ["card::"], threads=1),
    Row("disturbed first starts, lost folders, torn tails", "store", ["lost", "recovery"]),
    Row("kill -9", "torture", TORTURE_ROUNDS=60),
    Row("abuse beside a neighbour, memory against the budget", "abuse", threads=1, ABUSE_SECONDS=2),
    Row("locked out by idle, slow and pooled connections", "lockout"),
    Row("bursts over the cap", "bursts"),
    Row("raw requests", "http_corpus"),
    Row("a full card, from fill to recovery", "full_card", threads=2, FULL_CARD_ROUNDS=4),
    Row("steps of the clock", "clock"),
    Row("low descriptors", "descriptors"),
    Row("low memory", "low_memory", ignored=True),
    Row("the watchdog sees every loop", "watchdog"),
    Row("a standard error that nobody reads", "unread_output"),
    Row("slow backups under steady writes", "streams"),
    Row("soak, with slopes", "soak", SOAK_SECONDS=60),
]


def build(programs):
    words = [CARGO, "test", "--locked", "--profile", "fast", "--no-run"]
    for program in programs:
        words += ["--test", program]
    built = subprocess.run(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if built.returncode:
        sys.exit(built.stderr)
    found = re.findall(r"Executable tests/(\w+)(?:/main)?\.rs \((.+)\)", built.stderr)
    return {name: str(ROOT / path) for name, path in found}


def main():
    only = [word for word in os.environ.get("ONLY", "").split(",") if word]
    rows = [row for row in ROWS if not only or any(word in row.name or word == row.program for word in only)]
    LOGS.mkdir(parents=True, exist_ok=True)
    binaries = build(sorted({row.program for row in rows}))
    began, breached, table = time.monotonic(), [], []
    for row in rows:
        print(f"... {row.name}", flush=True)
        seconds, passed, breaches, details, log = row.run(binaries[row.program])
        table.append((row.name, "BREACH" if breaches else "held", f"{passed} tests, {seconds:.0f} s", details))
        if breaches:
            breached.append(row.name)
            print(f"    BREACH: {'; '.join(breaches)}; {log}", flush=True)
            table[-1][3].extend(breaches)
    width = max(len(name) for name, *_ in table)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    print(f"\nTrial of larder {commit.stdout.strip()}, both engines, {time.monotonic() - began:.0f} s")
    for name, verdict, amount, details in table:
        print(f"{name:{width}}  {verdict:6}  {amount}")
        for detail in details:
            print(f"{'':{width}}          {detail}")
    if breached:
        sys.exit(f"{len(breached)} of {len(table)} breached: {'; '.join(breached)}")
    print(f"all {len(table)} held")


main()
