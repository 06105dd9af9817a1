#!/usr/bin/env python3
"""The figures of one larder by itself: binary size, start with 100 000 keys, resident memory idle, under 64 clients and
with idle connections. `make figures`; needs wrk for the load. LARDER names another binary."""
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

LARDER = os.environ.get("LARDER", "target/release/larder")
KEYS = int(os.environ.get("KEYS", "100000"))
BOARD = {"LARDER_STORE_RESERVE": "1MiB", "LARDER_CACHE_SIZE": "16MiB", "LARDER_STORE_BLOCK_CACHE": "4MiB", "MALLOC_ARENA_MAX": "2"}


class Server:
    def __init__(self, data, engine, pin=None):
        words = [LARDER, "serve", "--listen", "127.0.0.1:0", "--data", data, "--engine", engine]
        environment = {**os.environ, **BOARD, "LARDER_LOG": "error", "LARDER_LIMITS_CONNECTIONS_PER_ADDRESS_MAX": "12000"}
        if engine == "tiny_http":
            environment["LARDER_LIMITS_CONNECTIONS_PER_ADDRESS_MAX"] = "500"
        self.begun = time.monotonic()
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment)
        if pin is not None:
            os.sched_setaffinity(self.process.pid, {pin})
        line = self.process.stdout.readline().decode()
        self.address = re.search(r"http://([^\s]+)", line).group(1)
        self.get("/health")
        self.first_answer_ms = (time.monotonic() - self.begun) * 1000

    def get(self, path):
        host, port = self.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (answer.status, body)
        connection.close()
        return body

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0


def load(server):
    host, port = server.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    for start in range(0, KEYS, 1000):
        operations = [{"op": "set", "key": f"k{n:07}", "value": "x" * 98} for n in range(start, min(start + 1000, KEYS))]
        body = json.dumps({"namespace": "a", "collection": "b", "operations": operations})
        connection.request("POST", "/api/v1/batch?durability=relaxed", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    connection.close()


def under_load(server):
    script = tempfile.NamedTemporaryFile("w", suffix=".lua")
    script.write(
        'local n = 0\nrequest = function()\n  n = n + 1\n  local path = string.format("/api/v1/kv/a/b/k%07d", (n * 7919) % '
        + str(KEYS)
        + ')\n  if n % 10 == 0 then return wrk.format("PUT", path, {["Content-Type"] = "text/plain"}, string.rep("y", 100)) end\n'
        '  return wrk.format("GET", path)\nend\n'
    )
    script.flush()
    wrk = subprocess.Popen(
        ["wrk", "-t1", "-c64", "-d8s", "-s", script.name, f"http://{server.address}/"], stdout=subprocess.DEVNULL
    )
    peak = 0.0
    while wrk.poll() is None:
        peak = max(peak, server.rss_mib())
        time.sleep(0.1)
    return peak


def with_idle_connections(server, count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 500, max(count + 500, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    host, port = server.address.split(":")
    sockets = []
    for _ in range(count):
        connection = socket.create_connection((host, int(port)), timeout=30)
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        sockets.append(connection)
    time.sleep(1)
    rss = server.rss_mib()
    for connection in sockets:
        connection.close()
    return rss


def main():
    print(f"binary: {os.path.getsize(LARDER) / 1e6:.2f} MB")
    for engine, connections in (("tiny_http", 400), ("epoll", 10000)):
        folder = tempfile.mkdtemp()
        try:
            server = Server(folder, engine)
            load(server)
            server.stop()
            starts = []
            for _ in range(5):
                server = Server(folder, engine)
                starts.append(server.first_answer_ms)
                time.sleep(0.5)
                idle = server.rss_mib()
                server.stop()
            starts.sort()
            print(f"{engine}: start to first answer with {KEYS} keys: median {starts[2]:.0f} ms (of {starts[0]:.0f}–{starts[-1]:.0f})")
            print(f"{engine}: RSS idle {idle:.1f} MiB")
            server = Server(folder, engine)
            print(f"{engine}: RSS with {connections} idle connections {with_idle_connections(server, connections):.1f} MiB")
            server.stop()
            if shutil.which("wrk"):
                server = Server(folder, engine)
                print(f"{engine}: RSS at most {under_load(server):.1f} MiB under 64 clients (9 reads to 1 write, all keys)")
                server.stop()
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
