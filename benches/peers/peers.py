"""The servers that are compared: how each is started, and how each says read, write, batch and list.

A peer that cannot do something has no entry for it, and its cell in the table stays empty.
"""

import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT = ROOT / "target" / "peers"
SERVER_CORE, LOAD_CORE = "0", "1"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url, process, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{url} does not answer")


class Peer:
    """One server. `durable` says before which answers it syncs: every write's (True), or about once a second."""

    name = ""
    about = ""
    # What it can do at all: reads, writes, batches, lists, both kinds of durability.
    can = frozenset({"get", "put", "batch", "list", "durable", "relaxed", "304"})
    prefix = "/kv/"
    batch_method, batch_path = "POST", "/batch"
    put_status = (200, 201, 204)

    def __init__(self, folder, home, durable, values):
        """`folder` is for data (perhaps on the card), `home` for logs, sockets and settings (never on it)."""
        self.folder, self.home, self.durable, self.values = pathlib.Path(folder), pathlib.Path(home), durable, values
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processes, self.port = [], free_port()
        self.log = open(self.home / f"{self.name}.log", "ab")

    def run(self, *words, **options):
        process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **options)
        self.processes.append(process)
        return process

    def start(self):
        began = time.time()
        self.launch()
        wait_for(f"http://127.0.0.1:{self.port}{self.ready_path()}", self.processes[-1])
        self.start_ms = (time.time() - began) * 1000

    def ready_path(self):
        return self.prefix + "absent"

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        self.log.close()

    def pids(self):
        """All processes of this server, children too."""
        found, queue = [], [process.pid for process in self.processes]
        while queue:
            pid = queue.pop()
            found.append(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                queue.extend(int(child) for child in task.read_text().split())
        return found

    # Requests: (method, path, headers, body) for a key.

    def get(self, key):
        return "GET", self.prefix + key, {}, None

    def put(self, key, value):
        return "PUT", self.prefix + key, {"Content-Type": "application/octet-stream"}, value

    def batch(self, pairs):
        body = {"operations": [{"op": "set", "key": key, "value": value.decode()} for key, value in pairs]}
        return self.batch_method, self.batch_path, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def list(self, start):
        return "GET", f"/kv?start={start}&limit=100", {}, None


class Larder(Peer):
    engine, connections_max = "", 0
    prefix = "/api/v1/kv/bench/kv/"
    batch_path = "/api/v1/batch"

    def launch(self):
        profile = os.environ.get("PROFILE", "release")
        config = self.home / "larder.toml"
        # All load comes from one address here; memory is what a board with 512 MB gets by default.
        config.write_text(f"[limits]\nconnections_per_address_max = {self.connections_max}\n"
                          '[cache]\nsize = "16MiB"\n[store]\nblock_cache = "4MiB"\nmemtable = "4MiB"\n')
        self.run(ROOT / "target" / profile / "larder", "serve", "--engine", self.engine, "--config", config,
                 "--listen", f"127.0.0.1:{self.port}", "--data", self.folder,
                 "--durability", "sync" if self.durable else "relaxed")

    def batch(self, pairs):
        body = {"namespace": "bench", "collection": "kv",
                "operations": [{"op": "set", "key": key, "value": value.decode()} for key, value in pairs]}
        return "POST", self.batch_path, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def list(self, start):
        return "GET", f"/api/v1/kv/bench/kv?start={start}&limit=100&values=false", {}, None


class LarderTiny(Larder):
    name, engine, about = "larder-tiny", "tiny_http", "larder, engine tiny_http (the default; 500 connections at most)"
    connections_max = 500


class LarderEpoll(Larder):
    name, engine, about = "larder-epoll", "epoll", "larder, engine epoll"
    connections_max = 12000


class Gin(Peer):
    name, about = "gin", "gin + bbolt, writes through db.Batch (bbolt's group commit); relaxed: NoSync + a sync a second"
    can = Peer.can - {"304"}

    def launch(self):
        words = [BUILT / "gin-bbolt", "-data", self.folder, "-listen", f"127.0.0.1:{self.port}"]
        self.run(*words, *([] if self.durable else ["-relaxed"]))


class Axum(Peer):
    name, about = "axum", "axum + fjall, writes synced one by one on blocking threads; relaxed: a sync a second"
    can = Peer.can - {"304"}

    def launch(self):
        words = [BUILT / "axum-fjall", "--data", self.folder, "--listen", f"127.0.0.1:{self.port}"]
        self.run(*words, *([] if self.durable else ["--relaxed"]))


class Webdis(Peer):
    name, about = "webdis", "webdis + redis over a Unix socket; durable: appendfsync always, relaxed: everysec"
    can = Peer.can - {"list"}
    prefix = "/GET/"

    def launch(self):
        home = self.home
        redis_socket = home / "redis.sock"
        redis_socket.unlink(missing_ok=True)
        self.run("redis-server", "--port", 0, "--unixsocket", redis_socket, "--dir", self.folder, "--save", "",
                 "--appendonly", "yes", "--appendfsync", "always" if self.durable else "everysec")
        end = time.time() + 60
        while not self.redis_answers(redis_socket):
            if time.time() > end:
                raise RuntimeError("redis does not answer")
            time.sleep(0.05)
        config = home / "webdis.json"
        config.write_text(json.dumps({
            "redis_host": str(redis_socket), "http_host": "127.0.0.1",
            "http_port": self.port, "threads": 2, "pool_size": 20, "daemonize": False, "websockets": False,
            "database": 0, "verbosity": 1, "http_max_request_size": 8 << 20, "logfile": str(home / "webdis.log")}))
        self.run("webdis", config)

    @staticmethod
    def redis_answers(path):
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(path))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def ready_path(self):
        return "/PING"

    def get(self, key):
        return "GET", f"/GET/{key}.bin", {}, None

    def put(self, key, value):
        return "PUT", f"/SET/{key}", {}, value

    def batch(self, pairs):
        return "POST", "/", {}, ("MSET/" + "/".join(f"{key}/{value.decode()}" for key, value in pairs)).encode()


class Etcd(Peer):
    name, about = "etcd", "etcd, one member, JSON gateway (values in base64); every write is synced"
    can = frozenset({"get", "put", "batch", "list", "durable"})

    def launch(self):
        peer = free_port()
        self.run("etcd", "--data-dir", self.folder, "--listen-client-urls", f"http://127.0.0.1:{self.port}",
                 "--advertise-client-urls", f"http://127.0.0.1:{self.port}", "--quota-backend-bytes", 8 << 30,
                 "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--log-level", "error", "--logger", "zap",
                 "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster",
                 f"default=http://127.0.0.1:{peer}")

    def start(self):
        super().start()
        end = time.time() + 60
        while True:
            # The port answers before the member has a leader, that is, itself.
            try:
                request(self.port, *self.put("ready", b"x"))
                return
            except OSError:
                if time.time() > end:
                    raise
                time.sleep(0.1)

    def ready_path(self):
        return "/health"

    @staticmethod
    def b64(data):
        return base64.b64encode(data).decode()

    def get(self, key):
        return self.call("range", {"key": self.b64(key.encode())})

    def put(self, key, value):
        return self.call("put", {"key": self.b64(key.encode()), "value": self.b64(value)})

    def batch(self, pairs):
        puts = [{"request_put": {"key": self.b64(key.encode()), "value": self.b64(value)}} for key, value in pairs]
        return self.call("txn", {"success": puts})

    def list(self, start):
        return self.call("range", {"key": self.b64(start.encode()), "range_end": "AA==", "limit": 100,
                                   "keys_only": True})

    @staticmethod
    def call(what, body):
        return "POST", f"/v3/kv/{what}", {"Content-Type": "application/json"}, json.dumps(body).encode()


class Express(Peer):
    name, about = "express", "Express 4, a Map, the whole of it saved as JSON every second: relaxed writes only"
    can = Peer.can - {"durable"}

    def launch(self):
        self.run("node", BUILT / "express" / "server.js", self.folder, self.port, env={**os.environ, "NODE_ENV": "production"})


class Nginx(Peer):
    name, about = "nginx", "nginx, one worker, a constant of the same size: the limit, not a store"
    can = frozenset({"get"})

    def launch(self):
        home = self.home
        for key, value in self.values.items():
            (self.folder / key).write_bytes(value)
        blocks = "\n".join(
            f'location /kv/{size}- {{ default_type application/octet-stream; return 200 "{"x" * len(value)}"; }}'
            for size, value in {key.split("-")[0]: value for key, value in self.values.items()}.items()
            if len(value) < 4096)
        config = home / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/nginx.err;"
            f"events {{ worker_connections 16000; }}"
            f"http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {home}/b;"
            f"proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;"
            f"open_file_cache max=1000; server {{ listen 127.0.0.1:{self.port} backlog=1024; etag off; "
            f"location /kv/ {{ alias {self.folder}/; }} {blocks} }} }}")
        self.run("nginx", "-c", config, "-p", home)


class Caddy(Peer):
    name, about = "caddy", "Caddy serving files"
    can = frozenset({"get", "304"})

    def launch(self):
        for key, value in self.values.items():
            (self.folder / "kv").mkdir(exist_ok=True)
            (self.folder / "kv" / key).write_bytes(value)
        config = self.home / "Caddyfile"
        config.write_text(f"{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{self.port} {{\n bind 127.0.0.1\n"
                          f" root * {self.folder}\n file_server\n}}\n")
        home = self.home
        self.run("caddy", "run", "--config", config, "--adapter", "caddyfile",
                 env={**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)})


PEERS = {peer.name: peer for peer in
         (LarderTiny, LarderEpoll, Gin, Axum, Webdis, Etcd, Express, Nginx, Caddy)}


def request(port, method, path, headers, body):
    """One request, for loading and checking; an OSError if it is not answered with a 2xx."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method=method, headers=headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return answer.headers, answer.read()


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
