#!/usr/bin/env python3
"""What larder costs, in figures that no clock and no other load on the machine can change, against budget.toml.

Instructions and allocations of one request are counted by callgrind on the real server, which starts uncounted: one
connection sends rounds of the same number of requests, and the cheapest round counts, since in the others something went
on in the background besides. The instructions are those of user space: what the kernel spends on a system call is not in
them. Binary size and the number of crates come from the release build and cargo.

    benches/budget.py                    check: exit 1 if a figure is more than the slack above its budget
    benches/budget.py --write            measure and renew budget.toml
    benches/budget.py --functions FILE   instead write where the instructions go, by function (Markdown), on the `fast`
                                         build, which still has its names
"""

import argparse
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
BUDGET = os.path.join(HERE, "budget.toml")
SLACK = 0.05
ENGINES = ("epoll", "tiny_http")
WARM_UP = 300
# Twice as many as a thread's list of metric samples holds, so that each round pours equally many.
REQUESTS = 1024
ROUNDS = 5
VALUE = b"v" * 100
KEYS = 16
START_SECONDS_MAX = 120
ALLOCATORS = re.compile(r"^(malloc|calloc|realloc|aligned_alloc|posix_memalign|memalign)(@.*)?$")

HEADER = """\
# What larder may cost: `make budget` fails where a figure is more than 5 % above the one here, and says so where it is
# more than 5 % below. `make budget-write` renews the file; a commit that does so says why.
#
# Instructions (user space) and allocations are for one request on one connection, measured on the release build by
# callgrind: a GET of a cached value of 100 bytes, and a durable PUT of one that replaces another.
"""


class Client:
    """One connection that sends one request at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request, status):
        self.socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.receive()
        head, body = answer.split(b"\r\n\r\n", 1)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        length = int(length.group(1)) if length else 0
        while len(body) < length:
            body += self.receive()
        if int(head[9:12]) not in status:
            sys.exit(f"budget: unexpected answer: {head.decode()}")

    def receive(self):
        piece = self.socket.recv(65536)
        if not piece:
            sys.exit("budget: the server closed the connection")
        return piece

    def get(self, number):
        self.ask(
            b"GET /api/v1/kv/home/notes/key-%02d HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: budget\r\n"
            b"Accept: */*\r\n\r\n" % (number % KEYS),
            (200,),
        )

    def put(self, number):
        self.ask(
            b"PUT /api/v1/kv/home/notes/key-%02d HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: budget\r\n"
            b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (number % KEYS, len(VALUE), VALUE),
            (200, 201, 204),
        )


class Profile:
    """One dump of callgrind: instructions in all, calls of the allocator, and instructions by function."""

    def __init__(self, path):
        self.instructions = 0
        self.allocations = 0
        self.functions = {}
        names = {}
        function = callee = None
        after_calls = False
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                line = line.rstrip("\n")
                if line.startswith(("fn=", "cfn=")):
                    name = self.name(names, line.split("=", 1)[1])
                    if line.startswith("fn="):
                        function = name
                    else:
                        callee = name
                elif line.startswith("calls="):
                    if ALLOCATORS.match(callee.split("'")[0]):
                        self.allocations += int(line[6:].split()[0])
                    after_calls = True
                elif line[:1] in ("+", "-", "*") or line[:1].isdigit():
                    # The line after `calls=` holds what the callee cost, which is counted with the callee.
                    cost = line.split()
                    if not after_calls and len(cost) > 1:
                        self.functions[function] = self.functions.get(function, 0) + int(cost[1])
                        self.instructions += int(cost[1])
                    after_calls = False

    @staticmethod
    def name(names, text):
        number, _, rest = text.partition(" ")
        if rest:
            names[number] = rest
        return names[number]


class Server:
    """The server under callgrind, which counts only while told to."""

    def __init__(self, binary, engine, folder):
        self.folder = folder
        self.out = os.path.join(folder, f"{engine}.out")
        config = os.path.join(folder, f"{engine}.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'[server]\nengine = "{engine}"\nlisten = ["127.0.0.1:0"]\nworkers = 2\nio_threads = 1\n')
        log = open(os.path.join(folder, f"{engine}.log"), "w+", encoding="utf-8")
        # One thread at a time runs under valgrind. fjall's first worker hands compactions on by sending them to itself
        # until the second takes them: without turns in order it would hold the only place for ever.
        words = ["valgrind", "--fair-sched=try", "--tool=callgrind", "--instr-atstart=no", "--compress-pos=no",
                 f"--callgrind-out-file={self.out}", binary, "serve", "--config", config,
                 "--data", os.path.join(folder, engine)]
        self.process = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "LARDER_STORE_RESERVE": "1MiB"})
        self.log = log
        self.port = self.wait_for_port()

    def wait_for_port(self):
        until = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < until and self.process.poll() is None:
            self.log.seek(0)
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log.read())
            if found:
                return int(found.group(1))
            time.sleep(0.1)
        self.log.seek(0)
        text = self.log.read()
        self.stop()
        sys.exit(f"budget: the server did not start:\n{text}")

    def tell(self, *words):
        told = subprocess.run(["vgdb", f"--pid={self.process.pid}", "--wait=60", *words], capture_output=True, text=True,
                              timeout=120, check=False)
        if told.returncode != 0:
            sys.exit(f"budget: vgdb {' '.join(words)}: {told.stdout}{told.stderr}")

    def dump(self):
        """What was counted since the last dump."""
        before = set(os.listdir(self.folder))
        self.tell("dump")
        new = [name for name in os.listdir(self.folder) if name not in before and name.startswith(
            os.path.basename(self.out))]
        if len(new) != 1:
            sys.exit(f"budget: callgrind wrote {len(new)} dumps for one")
        return Profile(os.path.join(self.folder, new[0]))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def measure_engine(binary, engine, folder):
    """Figures of one engine, and instructions by kind of request and function."""
    server = Server(binary, engine, folder)
    try:
        client = Client(server.port)
        for number in range(KEYS):
            client.put(number)
        server.tell("instrumentation", "on")
        figures, functions = {}, {}
        for kind, ask in (("get_hit", client.get), ("put", client.put)):
            for number in range(WARM_UP):
                ask(number)
            server.dump()
            rounds = []
            for _ in range(ROUNDS):
                for number in range(REQUESTS):
                    ask(number)
                rounds.append(server.dump())
            best = min(rounds, key=lambda profile: profile.instructions)
            figures[f"{engine}.{kind}.instructions"] = round(best.instructions / REQUESTS)
            figures[f"{engine}.{kind}.allocations"] = round(min(one.allocations for one in rounds) / REQUESTS, 1)
            functions[kind] = {name: cost / REQUESTS for name, cost in best.functions.items()}
        return figures, functions
    finally:
        server.stop()


def crates():
    words = [os.environ.get("CARGO", "cargo"), "tree", "--locked", "--edges", "normal", "--prefix", "none"]
    out = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return len({line.removesuffix(" (*)") for line in out.splitlines() if line})


def table(functions, total):
    lines = ["| instructions | share | function |", "|---:|---:|---|"]
    for name, cost in sorted(functions.items(), key=lambda item: -item[1])[:30]:
        shown = name.replace("|", "\\|")
        lines.append(f"| {cost:.0f} | {100 * cost / total:.1f} % | `{shown}` |")
    return "\n".join(lines)


def write_functions(path, figures, by_engine):
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    with open(path, "w", encoding="utf-8") as file:
        file.write("# Where the instructions of a request go\n\n")
        file.write(f"`benches/budget.py --functions FILE` (the `fast` build), {platform.machine()}, {version}, ")
        file.write(f"{time.strftime('%Y-%m-%d')}. User space only, per request; the 30 functions that cost most.\n")
        for engine, kinds in by_engine.items():
            for kind, functions in kinds.items():
                total = figures[f"{engine}.{kind}.instructions"]
                title = {"get_hit": "GET of a cached value", "put": "durable PUT"}[kind]
                file.write(f"\n## {engine}: {title}, {total} instructions\n\n{table(functions, total)}\n")


def write_budget(figures):
    with open(BUDGET, "w", encoding="utf-8") as file:
        file.write(HEADER)
        file.write(f'\nmachine = "{platform.machine()}"\n\n[figures]\n')
        for name, value in figures.items():
            file.write(f'"{name}" = {value}\n')


def compare(figures):
    """Prints the table. The figures that are above their budget, each as a line."""
    with open(BUDGET, "rb") as file:
        stored = tomllib.load(file)
    budget = stored["figures"]
    other_machine = stored["machine"] != platform.machine()
    misses = []
    print(f"{'figure':36} {'budget':>12} {'now':>12} {'change':>8}")
    for name, value in figures.items():
        allowed = budget.get(name)
        if allowed is None:
            misses.append(f"{name} is not in benches/budget.toml: run `make budget-write`")
            continue
        change = (value - allowed) / allowed if allowed else float(value)
        print(f"{name:36} {allowed:>12} {value:>12} {100 * change:>+7.1f}%")
        # Another processor has other instructions and another size; allocations and crates are the same everywhere.
        if other_machine and name.endswith(("instructions", "bytes")):
            continue
        # A count that is small may not be rounded up by a slack: a tenth of an allocation is noise, a whole one is not.
        if value > allowed * (1 + SLACK) + (0.2 if name.endswith("allocations") else 0):
            misses.append(f"{name} is {value}, {100 * change:+.1f} % over its budget of {allowed}")
        elif value < allowed * (1 - SLACK):
            print(f"  {name} is better than its budget: `make budget-write` keeps it so")
    return misses


def main():
    parser = argparse.ArgumentParser(description="instructions, allocations, size and crates against budget.toml")
    parser.add_argument("--write", action="store_true", help="renew budget.toml")
    parser.add_argument("--functions", metavar="FILE", help="only write the costs by function to FILE")
    parser.add_argument("--binary", metavar="PATH", help="another binary than target/release/larder")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only this engine")
    options = parser.parse_args()
    binary = options.binary or os.path.join(ROOT, "target", "fast" if options.functions else "release", "larder")
    if not os.path.exists(binary):
        sys.exit(f"budget: {binary} is not there: build it first")

    figures, by_engine = {}, {}
    if shutil.which("valgrind") and shutil.which("vgdb"):
        with tempfile.TemporaryDirectory(prefix="larder-budget-") as folder:
            for engine in options.engine or ENGINES:
                measured, by_engine[engine] = measure_engine(binary, engine, folder)
                figures |= measured
    else:
        print("SKIPPED: instructions and allocations need valgrind", file=sys.stderr)
        if os.environ.get("CI"):
            sys.exit(1)
    if options.functions:
        write_functions(options.functions, figures, by_engine)
        return
    figures["binary.bytes"] = os.path.getsize(binary)
    figures["crates"] = crates()
    if options.write and (options.engine or not by_engine):
        sys.exit("budget: the file is renewed with all figures or not at all")
    if options.write:
        write_budget(figures)
    misses = compare(figures)
    for miss in misses:
        print(f"budget: {miss}", file=sys.stderr)
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
