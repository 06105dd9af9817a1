#!/usr/bin/env python3
"""Runs larder beside other servers, in one sitting, in interleaved rounds, and writes down what came out.

    make bench-peers                                        everything, three rounds (hours)
    ROUNDS=1 SECONDS_EACH=2 ONLY=larder-tiny,gin WORKLOADS=get100,put1k-card make bench-peers

ONLY and WORKLOADS choose by name (`run.py --list` shows the names; `put1k-card@64` is one number of connections);
COLD_KEYS is how many keys the cold workload has (1 000 000); PROFILE is larder's build profile (release);
RESULTS is the folder written to, NAME the name of the files in it (the date and the machine).

The server runs on core 0, wrk and the simulated card on core 1. Each cell is a server of its own, started on the
data folder kept for that peer, warmed up, measured, stopped. Nothing else should run meanwhile.
"""

import contextlib
import http.client
import json
import os
import pathlib
import random
import resource
import socket
import subprocess
import sys
import threading
import time

import cgroup
import peers
import report
import workloads
from peers import LOAD_CORE, PEERS, ROOT
from workloads import CARD_MS, KINDS, WORKLOADS, key, value

WORK = pathlib.Path(os.environ.get("BENCH_DIR", ROOT / "target" / "bench-peers"))
TICK = os.sysconf("SC_CLK_TCK")


def chosen(name, all_names):
    given = [word for word in os.environ.get(name, "").split(",") if word]
    for word in given:
        if word.split("@")[0] not in all_names:
            sys.exit(f"{name}: there is no {word!r}; there are {', '.join(all_names)}")
    return given or list(all_names)


class Card:
    """The simulated card over a folder."""

    def __init__(self, backing, mountpoint):
        self.mountpoint = mountpoint
        mountpoint.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            ["taskset", "-c", LOAD_CORE, ROOT / "target/fast/examples/card", backing, mountpoint, str(CARD_MS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "mounted\n":
            raise RuntimeError("the card cannot be mounted: is /dev/fuse there?")

    def stats(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)


class Context:
    """What plans need to know, and the data that peers are measured on."""

    def __init__(self):
        self.cold_keys = int(os.environ.get("COLD_KEYS", "1000000"))
        rng = random.Random(4)
        self.static = {key(name, number): value(size, rng)
                       for name, count, size in KINDS.values() for number in range(min(count, 100 if name == "b" else count))}

    def tag(self, peer, name):
        headers, _ = peers.request(peer.port, *peer.get(name))
        return headers.get("ETag")

    def values(self, data):
        """What is there before the cold keys: everything, or only the small values that are read all the time."""
        if data == "hot":
            return {name: text for name, text in self.static.items() if name.startswith("h-")}
        return self.static if data == "small" else {}

    def folder(self, peer, durable, data):
        """The data folder of a peer, filled at first use."""
        size = self.cold_keys if data == "cold" else ""
        home = WORK / f"{peer.name}-{'durable' if durable else 'relaxed'}-{data}{size}"
        if not (home / "filled").exists():
            print(f"  filling {home.name} …", flush=True)
            peers.remove(home)
            home.mkdir(parents=True)
            server = peer(home / "data", home, durable, self.values(data))
            server.start()
            try:
                if "put" in peer.can:
                    self.fill(server, data)
            finally:
                server.stop()
            (home / "filled").touch()
        return home / "data"

    def fill(self, server, data):
        rng = random.Random(5)
        if data == "cold":
            groups = ([(key("c", n), None) for n in range(start, min(start + 100, self.cold_keys))]
                      for start in range(0, self.cold_keys, 100))
        else:
            pairs = [pair for pair in self.values(data).items() if len(pair[1]) <= 1024]
            groups = (pairs[start:start + 100] for start in range(0, len(pairs), 100))
        groups, lock = iter(groups), threading.Lock()
        failures = []

        def work():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
            try:
                while True:
                    with lock:
                        group = next(groups, None)
                        if group is None or failures:
                            return
                        group = [(name, text or value(100, rng)) for name, text in group]
                    send(connection, *server.batch(group))
            except (OSError, http.client.HTTPException) as error:
                failures.append(error)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        for name, text in self.values(data).items():
            if len(text) > 1024:
                send(connection, *server.put(name, text))


def send(connection, method, path, headers, body):
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status // 100 != 2:
        raise OSError(f"{method} {path}: {answer.status} {text[:200]!r}")


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        # A child that has ended (redis forks to rewrite its log) is counted with its parent once it is waited for.
        with contextlib.suppress(FileNotFoundError):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(map(int, fields[11:15]))
    return total / TICK


def rss_kib(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
    return total


def answered_connections(port):
    """Connections to the port that have had an answer: what wrk does not tell."""
    out = subprocess.run(["ss", "-tinH", "state", "established", f"( dport = :{port} )"],
                         capture_output=True, text=True, check=False).stdout
    return out.count("bytes_received:")


def start_wrk(port, plan, connections, seconds, before=()):
    words = [*before, "taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s",
             ROOT / "benches/peers/load.lua", f"http://127.0.0.1:{port}/", "--", f"plan={plan}", "seed=7"]
    return subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wrk(port, plan, connections, seconds, during=None):
    process = start_wrk(port, plan, connections, seconds)
    if during:
        time.sleep(seconds * 0.6)
        during()
    return result_of(process, seconds)


def result_of(process, seconds):
    out, _ = process.communicate(timeout=seconds + 90)
    for line in out.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    raise RuntimeError(f"wrk failed:\n{out}")


class Idle:
    """Connections that have had one answer each and then wait."""

    def __init__(self, server, count):
        raw = workloads.http(*server.get(key("h", 0)))
        self.sockets, self.answered = [], 0
        for start in range(0, count, 100):
            group = []
            for _ in range(min(100, count - start)):
                try:
                    connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
                    connection.sendall(raw)
                    group.append(connection)
                except OSError:
                    pass
            for connection in group:
                try:
                    self.answered += connection.recv(4096).startswith(b"HTTP/1.1 200")
                except OSError:
                    pass
            self.sockets += group
            if not group:
                break

    def held(self):
        """How many the server still holds open."""
        count = 0
        for connection in self.sockets:
            try:
                connection.setblocking(False)
                connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                count += 1
            except OSError:
                pass
        return count

    def end(self):
        for connection in self.sockets:
            connection.close()


def measure(context, peer, work, connections, seconds):
    """One cell of the table."""
    backing = context.folder(peer, work.durable, work.data)
    card = Card(backing, WORK / "card") if work.card else None
    server = peer(card.mountpoint if card else backing, backing.parent, work.durable, context.values(work.data))
    cell = {}
    idle = group = probe = None
    try:
        server.start()
        cell["start_ms"] = round(server.start_ms)
        plan = WORK / "plan.lua"
        plan.write_text(work.plan(server, context))
        pids = server.pids()
        cell["rss_start_kib"] = rss_kib(pids)
        if work.idle:
            group = cgroup.Group("larder-bench", pids)
            before = group.kib()
            idle = Idle(server, work.idle)
            cell["idle_answered"], cell["idle_held"] = idle.answered, idle.held()
            cell["rss_idle_kib"] = rss_kib(pids)
            if before is not None:
                # What was charged before the group was made is not in it: the growth is, and RSS at the start.
                cell["group_idle_kib"] = cell["rss_start_kib"] + group.kib() - before
        warm = wrk(server.port, plan, connections, 1)
        written, cpu = (card.stats() if card else None), cpu_seconds(pids)

        def during():
            # Beside idle ones, some of which the server may have ended, those of wrk cannot be told apart.
            if not idle:
                cell["answered"] = min(connections, answered_connections(server.port))
        if work.probe:
            probe_plan = WORK / "probe.lua"
            probe_plan.write_text(work.probe(server, context))
            # Before the load on their core, which would be measured along else. Without the right to that: like any other.
            probe = start_wrk(server.port, probe_plan, 1, seconds, ("nice", "-n", "-15"))
        result = wrk(server.port, plan, connections, seconds, during)
        if probe:
            beside, probe = result_of(probe, seconds), None
            cell.update({f"probe_{name}": beside[name] for name in ("requests", "status", "p50_us", "p99_us", "p999_us")})
        used = cpu_seconds(pids) - cpu
        good = result["requests"] - result["status"]
        cell.update({name: result[name] for name in
                     ("requests", "mean_us", "p50_us", "p95_us", "p99_us", "p999_us", "max_us", "status", "connect", "read", "write", "timeout")})
        cell["per_second"] = good / (result["duration_us"] / 1e6)
        cell["cpu_us"] = used * 1e6 / max(1, result["requests"])
        cell["rss_kib"] = rss_kib(pids)
        if warm["status"] or result["status"]:
            print(f"    {peer.name}: {result['status']} answers with an error status", flush=True)
    finally:
        if probe:
            probe.kill()
        if idle:
            idle.end()
        server.stop()
        if group:
            group.end()
        if card:
            if "per_second" in cell:
                after = card.stats()
                cell["syncs_per_second"] = (after["syncs"] - written["syncs"]) / (result["duration_us"] / 1e6)
                if work.user_bytes and good:
                    # Up to the end of the stop, so that what was put off is in it.
                    cell["wear"] = (after["bytes_to_card"] - written["bytes_to_card"]) / (good * work.user_bytes)
            card.end()
    return cell


def cells(names, all_work):
    for name in all_work:
        work, _, only = name.partition("@")
        work = WORKLOADS[work]
        for connections in (int(only),) if only else work.connections:
            peers_here = [PEERS[peer] for peer in names]
            yield work, connections, [peer for peer in peers_here if work.possible(peer)]


def main():
    if sys.argv[1:] == ["--list"]:
        for table in (PEERS, WORKLOADS):
            for name, one in table.items():
                print(f"{name:20} {one.about}")
        return
    rounds, seconds = int(os.environ.get("ROUNDS", "3")), int(os.environ.get("SECONDS_EACH", "5"))
    names, work_names = chosen("ONLY", PEERS), chosen("WORKLOADS", WORKLOADS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    WORK.mkdir(parents=True, exist_ok=True)
    context = Context()
    results = report.Results(rounds, seconds, names, context.cold_keys)
    for number in range(rounds):
        for work, connections, able in cells(names, work_names):
            # A different peer first in each round, so that none always comes after the same one.
            turned = able[number % max(1, len(able)):] + able[:number % max(1, len(able))]
            for peer in turned:
                try:
                    cell = measure(context, peer, work, connections, seconds)
                except (OSError, RuntimeError, subprocess.SubprocessError, http.client.HTTPException) as error:
                    print(f"    {peer.name} on {work.name}: {error}", flush=True)
                    cell = {"error": str(error).splitlines()[0]}
                results.add(work, connections, peer, cell)
                if "per_second" in cell:
                    print(f"{number + 1}/{rounds} {work.name:18} {connections:4} {peer.name:12} "
                          f"{cell['per_second']:9.0f}/s  p50 {cell['p50_us'] / 1000:8.2f}  p99 {cell['p99_us'] / 1000:8.2f} ms"
                          f"  {cell['cpu_us']:6.0f} µs CPU  {cell['rss_kib'] / 1024:5.0f} MiB"
                          f"  {cell.get('answered', '–')}/{connections} answered", flush=True)
        results.write()
    print(results.write())


if __name__ == "__main__":
    main()
