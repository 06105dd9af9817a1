#!/usr/bin/env python3
"""Puts the short form of a sitting into the README, between its marks.

    benches/peers/readme.py benches/results/NAME.json
"""

import json
import pathlib
import re
import statistics
import sys

from peers import ROOT

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
NAMES = {
    "larder-epoll": "larder, epoll", "larder-tiny": "larder, tiny_http", "gin": "gin + bbolt (`db.Batch`)",
    "axum": "axum + fjall", "webdis": "webdis + redis (AOF)", "etcd": "etcd", "express": "Express, Map + JSON file",
    "nginx": "nginx, a constant", "caddy": "Caddy, files",
}
# Heading, workload, connections, figure, divisor, digits.
COLUMNS = (
    ("GET hit, 100 B /s", "get100", 32, "per_second", 1, 0),
    ("CPU a GET, µs", "get100", 32, "cpu_us", 1, 1),
    ("GET of 1 M keys /s", "cold", 32, "per_second", 1, 0),
    ("durable PUT, 1 KiB, card /s", "put1k-card", 64, "per_second", 1, 0),
    ("bytes to the card a byte", "put1k-card", 64, "wear", 1, 1),
    ("95/5 mix, card /s", "mix-card", 32, "per_second", 1, 0),
    ("GET beside it, p99 ms", "mix-card", 32, "probe_p99_us", 1000, 1),
    ("10 000 idle, RSS MiB", "idle10k", 32, "rss_idle_kib", 1024, 0),
    ("start, ms", "get100", 32, "start_ms", 1, 0),
)


def median(cells, peer, work, connections, field, divisor, digits):
    for cell in cells:
        if (cell["peer"], cell["workload"], cell["connections"]) == (peer, work, connections):
            there = [one[field] / divisor for one in cell["rounds"] if field in one]
            # A server that let most of the idle ones go holds no memory for them.
            # The files that stand for values are written before these two start, which is in the figure.
            if field == "start_ms" and peer in ("nginx", "caddy"):
                return "–"
            if work == "idle10k" and any(one.get("idle_held", 0) < 10_000 for one in cell["rounds"]):
                return "–"
            return f"{statistics.median(there):,.{digits}f}".replace(",", " ") if there else "–"
    return "–"


def main():
    path = pathlib.Path(sys.argv[1])
    sitting = json.loads(path.read_text())
    stem = f"benches/results/{path.stem}"
    lines = [BEGIN, f"![larder beside others]({stem}.svg)", "",
             f"One sitting ({sitting['date']}, {sitting['machine']}): {sitting['rounds']} interleaved rounds, medians; the "
             "server on one core, the load and a simulated card that syncs in 8 ms on the other. "
             f"[The whole table]({stem}.md) has the ranges, every workload and the targets.", "",
             "| | " + " | ".join(column[0] for column in COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for peer in NAMES:
        if peer in sitting["only"]:
            row = [median(sitting["cells"], peer, *column[1:]) for column in COLUMNS]
            lines.append(f"| {NAMES[peer]} | " + " | ".join(row) + " |")
    lines.append(END)
    readme = ROOT / "README.md"
    text = readme.read_text()
    found = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.S)
    if not found.search(text):
        sys.exit(f"README.md has no {BEGIN} … {END}")
    readme.write_text(found.sub(lambda _: "\n".join(lines), text))


if __name__ == "__main__":
    main()
