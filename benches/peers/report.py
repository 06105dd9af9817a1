"""What the runs say: a table as Markdown, all figures as JSON, and a plot as SVG."""

import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess

import verdicts
from peers import PEERS, ROOT
from workloads import WORKLOADS

# The cells that are drawn, if they were measured; else all.
PLOTTED = (("get100", 32), ("cold", 32), ("put1k-card", 64), ("mix-card", 32), ("list100", 32))
COLOURS = {"larder-tiny": "#8a4b08", "larder-epoll": "#d9822b"}


def machine():
    model = "unknown CPU"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) // 1024 // 1024
    return f"{os.cpu_count()} cores {model}, {memory} GiB, Linux {platform.release()}"


def commit():
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    # Only what goes into the binary makes it another one.
    changed = " with changes" if git("status", "--porcelain", "src", "Cargo.toml", "Cargo.lock") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed


def spread(numbers, text):
    """Median (min–max)."""
    middle = text(statistics.median(numbers))
    return middle if len(numbers) == 1 else f"{middle} ({text(min(numbers))}–{text(max(numbers))})"


# What only some workloads have: heading, field, divisor.
EXTRAS = (("GET beside, p50 ms", "probe_p50_us", 1000), ("p99 ms", "probe_p99_us", 1000), ("p99.9 ms", "probe_p999_us", 1000),
          ("RSS MiB with the idle ones", "rss_idle_kib", 1024), ("with the kernel's part, MiB", "group_idle_kib", 1024))


def beside(names, by_peer):
    """A second table for what stands beside the load itself: a lone reader, idle connections."""
    there = [extra for extra in EXTRAS if any(extra[1] in cell for cells in by_peer.values() for cell in cells)]
    if not there:
        return []
    lines = ["| | " + " | ".join(heading for heading, _, _ in there) + " |", "|---" * (1 + len(there)) + "|"]
    for peer in (name for name in names if name in by_peer):
        figures = []
        for _, field, divisor in there:
            numbers = [cell[field] / divisor for cell in by_peer[peer] if field in cell]
            figures.append(spread(numbers, lambda n: f"{n:.2f}") if numbers else "–")
        lines.append(f"| {peer} | " + " | ".join(figures) + " |")
    return [*lines, ""]


class Results:
    """All cells of all rounds."""

    def __init__(self, rounds, seconds, names, cold_keys):
        self.head = {
            "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "rounds": rounds,
            "seconds_each": seconds, "cold_keys": cold_keys, "profile": os.environ.get("PROFILE", "release"),
            "only": names, "load_average_before": os.getloadavg()[0],
        }
        self.cells = {}

    def add(self, work, connections, peer, cell):
        self.cells.setdefault((work.name, connections), {}).setdefault(peer.name, []).append(cell)

    def write(self):
        folder = pathlib.Path(os.environ.get("RESULTS", ROOT / "benches" / "results"))
        folder.mkdir(parents=True, exist_ok=True)
        short = re.sub(r"[^a-z0-9]+", "-", f"{os.cpu_count()}x-{platform.machine()}".lower()).strip("-")
        name = os.environ.get("NAME", f"{self.head['date']}-{short}")
        rows = [{"workload": work, "connections": connections, "peer": peer, "rounds": cells}
                for (work, connections), by_peer in self.cells.items() for peer, cells in by_peer.items()]
        (folder / f"{name}.json").write_text(json.dumps({**self.head, "cells": rows}, indent=1) + "\n")
        (folder / f"{name}.svg").write_text(self.plot())
        text = self.table(name)
        (folder / f"{name}.md").write_text(text)
        return text

    def table(self, name):
        head = self.head
        lines = [
            f"# larder beside others, {head['date']}", "",
            f"{head['machine']}. larder {head['commit']}, profile {head['profile']}. {head['rounds']} interleaved "
            f"rounds of {head['seconds_each']} s a cell: median (min–max). Load average before: "
            f"{head['load_average_before']:.1f}.", "",
            "The server runs on core 0; wrk (one thread) and the simulated card (a FUSE file system that syncs in "
            "8 ms, one sync at a time) on core 1. larder has the settings of a 512 MB board. `÷` is larder's "
            "requests/s over this peer's, round by round. `wear` is bytes in 4 KiB pages written to the card, until "
            "the server has stopped, for a byte of the user's values. `answered` are connections that had an answer "
            "at all. CPU and RSS are of all processes of a server.", "",
            f"![durable writes and reads]({name}.svg)", "",
            *verdicts.targets(self.cells), *verdicts.against_express(self.cells, head["only"]),
        ]
        for (work, connections), by_peer in self.cells.items():
            about = WORKLOADS[work].about
            if WORKLOADS[work].data == "cold":
                about += f" ({head['cold_keys']})"
            lines += [f"## {about}; {connections} connection{'s' if connections > 1 else ''} (`{work}@{connections}`)", ""]
            lines += ["| | requests/s | larder-tiny ÷ | larder-epoll ÷ | p50 ms | p99 ms | p99.9 ms | CPU µs/request "
                      "| RSS MiB | wear | answered |", "|---|---|---|---|---|---|---|---|---|---|---|"]
            for peer in head["only"]:
                lines.append(self.row(peer, by_peer.get(peer), by_peer, connections))
            lines += ["", *beside(head["only"], by_peer)]
        lines += ["## Who is who", ""]
        lines += [f"- **{peer}**: {PEERS[peer].about}." for peer in head["only"]]
        return "\n".join(lines) + "\n"

    def row(self, peer, cells, by_peer, connections):
        good = [cell for cell in cells or [] if "per_second" in cell]
        if not good:
            return f"| {peer} " + ("| failed " if cells else "| – ") + "| – " * 9 + "|"

        def of(field, scale=1.0, digits=2):
            there = [cell[field] / scale for cell in good if field in cell]
            return spread(there, lambda n: f"{n:.{digits}f}") if there else "–"
        errors = sum(cell["status"] + cell["connect"] + cell["read"] + cell["write"] + cell["timeout"] for cell in good)
        if any("idle_answered" in cell for cell in good):
            answered = f"{min(cell['idle_held'] for cell in good)} of {min(cell['idle_answered'] for cell in good)} idle held"
        else:
            answered = f"{min(cell['answered'] for cell in good)}/{connections}"
        if errors:
            answered += f", {errors} errors"
        return "| " + " | ".join([
            peer, spread([cell["per_second"] for cell in good], lambda n: f"{n:,.0f}"),
            self.ratio("larder-tiny", peer, by_peer), self.ratio("larder-epoll", peer, by_peer),
            of("p50_us", 1000), of("p99_us", 1000), of("p999_us", 1000), of("cpu_us", 1, 1),
            of("rss_kib", 1024, 0), of("wear"), answered]) + " |"

    @staticmethod
    def ratio(ours, peer, by_peer):
        pairs = [a["per_second"] / b["per_second"] for a, b in zip(by_peer.get(ours, []), by_peer.get(peer, []))
                 if a.get("per_second") and b.get("per_second")]
        return spread(pairs, lambda n: f"{n:.2f}") if pairs and ours != peer else "–"

    def plot(self):
        """Bars of the median requests/s, a group a cell, each on a scale of its own."""
        cells = {cell: by_peer for cell, by_peer in self.cells.items() if cell in PLOTTED} or self.cells
        groups = [(f"{WORKLOADS[work].about}, {connections} conn.", {
            peer: statistics.median([cell["per_second"] for cell in cells if "per_second" in cell])
            for peer, cells in by_peer.items() if any("per_second" in cell for cell in cells)})
            for (work, connections), by_peer in cells.items()]
        out, y = [], 10
        for title, bars in groups:
            out.append(f'<text x="10" y="{y + 14}" font-weight="bold">{title}</text>')
            y += 22
            top = max(bars.values(), default=1) or 1
            for peer, rate in sorted(bars.items(), key=lambda bar: -bar[1]):
                width = max(1, rate / top * 420)
                out.append(f'<text x="105" y="{y + 12}" text-anchor="end">{peer}</text>'
                           f'<rect x="112" y="{y}" width="{width:.0f}" height="15" fill="{COLOURS.get(peer, "#8899aa")}"/>'
                           f'<text x="{118 + width:.0f}" y="{y + 12}">{rate:,.0f}/s</text>')
                y += 19
            y += 12
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{y}" font-family="sans-serif" '
                f'font-size="12"><rect width="100%" height="100%" fill="white"/>' + "\n".join(out) + "</svg>\n")
