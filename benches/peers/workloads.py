"""The workloads: what is asked, of which keys, at how many connections, on which disk; as plans for wrk's Lua."""

import dataclasses
import random

CARD_MS = 8
# Keys of each kind: (name, count, bytes of a value).
HOT = ("h", 1000, 100)
KIB = ("k", 10_000, 1024)
BIG = ("b", 100, 65_536)
KINDS = {kind[0]: kind for kind in (HOT, KIB, BIG)}


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    about: str
    needs: frozenset
    connections: tuple
    plan: object
    durable: bool = True
    card: bool = False
    data: str = "small"
    user_bytes: int = 0
    idle: int = 0
    # What one connection of its own asks meanwhile: its latencies stand beside those of the whole.
    probe: object = None

    def possible(self, peer):
        return self.needs <= peer.can


def key(kind, number):
    return f"{kind}-{number:07d}"


def value(size, rng):
    """Text like a sensor's, so that it compresses about as such things do; no character that any peer would escape."""
    text = ""
    while len(text) < size:
        text += (f"t={rng.randrange(1_700_000_000, 1_800_000_000)};id=sensor-{rng.randrange(100)};"
                 f"temp={rng.uniform(-20, 40):.2f};hum={rng.uniform(0, 100):.1f};ok=true;")
    return text[:size].encode()


def http(method, path, headers, body):
    """A request as bytes on the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def lua_text(data):
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03d}" for b in data) + '"'


def template_plan(make, kind, count, variants):
    """Lua for a random key in each request: a format where the key stands in it as it is, else a pool of requests."""
    marker = key(kind, 0)
    built = [make(marker) for _ in range(variants)]
    if all(one.count(marker.encode()) == 1 for one in built):
        parts = ",".join("{" + ",".join(map(lua_text, one.split(marker.encode()))) + "}" for one in built)
        return (f"local p = {{{parts}}}\nreturn function(random)\n  local v = p[random(#p)]\n"
                f'  return v[1] .. string.format("{kind}-%07d", random({count}) - 1) .. v[2]\nend\n')
    numbers = range(count) if count <= 4096 else random.Random(1).sample(range(count), 4096)
    return pool_plan([make(key(kind, number)) for number in numbers])


def pool_plan(requests):
    # Filled line by line: one table constructor of this size is too much for LuaJIT.
    lines = "\n".join(f"p[#p + 1] = {lua_text(one)}" for one in requests)
    chunks = ["local p = {}"]
    for start in range(0, len(requests), 500):
        chunks.append("do\n" + "\n".join(lines.split("\n")[start:start + 500]) + "\nend")
    return "\n".join(chunks) + "\nreturn function(random) return p[random(#p)] end\n"


def gets(kind):
    name, count, _ = KINDS[kind]
    return lambda peer, context: template_plan(lambda k: http(*peer.get(k)), name, count, 1)


def cold(peer, context):
    return template_plan(lambda k: http(*peer.get(k)), "c", context.cold_keys, 1)


def not_modified(peer, context):
    method, path, headers, body = peer.get(key("k", 0))
    return pool_plan([http(method, path, {**headers, "If-None-Match": context.tag(peer, key("k", 0))}, body)])


def puts(peer, context):
    rng = random.Random(2)
    return template_plan(lambda k: http(*peer.put(k, value(1024, rng))), "k", KIB[1], 64)


def mixed(peer, context):
    read, write = gets("k")(peer, context), puts(peer, context)
    return (f"local read = (function()\n{read}end)()\nlocal write = (function()\n{write}end)()\n"
            "return function(random) if random(100) <= 5 then return write(random) end return read(random) end\n")


def batches(peer, context):
    rng = random.Random(3)

    def one():
        return http(*peer.batch([(key("h", number), value(100, rng)) for number in rng.sample(range(HOT[1]), 100)]))
    return pool_plan([one() for _ in range(64)])


def lists(peer, context):
    return template_plan(lambda k: http(*peer.list(k)), "k", KIB[1] - 100, 1)


def needs(*words):
    return frozenset(words)


C = (1, 32, 256)
WORKLOADS = {w.name: w for w in (
    Workload("get100", "GET hit, 100 B", needs("get"), C, gets("h")),
    Workload("get1k", "GET hit, 1 KiB", needs("get"), (32,), gets("k")),
    Workload("get64k", "GET hit, 64 KiB", needs("get"), (32,), gets("b")),
    Workload("304", "GET with the current tag", needs("get", "304"), (32,), not_modified),
    Workload("cold", "GET, uniformly over the many keys", needs("get", "put"), (32,), cold, data="cold"),
    Workload("put1k", "PUT 1 KiB, durable", needs("put", "durable"), C, puts),
    Workload("put1k-relaxed", "PUT 1 KiB, relaxed", needs("put", "relaxed"), (32,), puts, durable=False),
    Workload("mix", "95 % GET, 5 % durable PUT, 1 KiB", needs("get", "put", "durable"), (32,), mixed,
             probe=gets("k")),
    Workload("batch100", "batch of 100 × 100 B, durable", needs("batch", "durable"), (32,), batches),
    Workload("list100", "page of 100 keys", needs("list"), (32,), lists),
    Workload("put1k-card", f"PUT 1 KiB, durable, {CARD_MS} ms card", needs("put", "durable"), (1, 8, 64, 256), puts,
             card=True, user_bytes=1024),
    Workload("put1k-relaxed-card", f"PUT 1 KiB, relaxed, {CARD_MS} ms card", needs("put", "relaxed"), (32,), puts,
             durable=False, card=True, user_bytes=1024),
    Workload("mix-card", f"95 % GET, 5 % durable PUT, 1 KiB, {CARD_MS} ms card", needs("get", "put", "durable"),
             (32,), mixed, card=True, probe=gets("k")),
    Workload("batch100-card", f"batch of 100 × 100 B, durable, {CARD_MS} ms card", needs("batch", "durable"), (32,),
             batches, card=True, user_bytes=10_000),
    Workload("idle10k", "GET hit, 100 B, beside 10 000 idle connections", needs("get"), (32,), gets("h"), data="hot",
             idle=10_000),
)}
