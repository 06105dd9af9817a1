"""What larder is to reach beside the others, and the change against the Express server: medians over the rounds."""

import statistics


def of(by_cell, work, connections, peer, value):
    """A figure of each round in which the peer got through the cell; `None` in place of the others."""
    cells = by_cell.get((work, connections), {}).get(peer, [])
    return [value(cell) if "per_second" in cell else None for cell in cells]


def per_second(cell):
    return cell["per_second"]


def per_cpu_second(cell):
    return 1e6 / cell["cpu_us"] if cell["cpu_us"] else None


def ratios(by_cell, work, connections, ours, theirs, value):
    pairs = zip(of(by_cell, work, connections, ours, value), of(by_cell, work, connections, theirs, value))
    return [a / b for a, b in pairs if a is not None and b]


# Sentence, workload, connections, ours, theirs, figure, at least.
RATIOS = (
    ("GET hit, requests a CPU-second", "get100", 32, "larder-epoll", "axum", per_cpu_second, 1.2),
    ("GET hit, requests a CPU-second", "get100", 32, "larder-epoll", "nginx", per_cpu_second, 0.9),
    ("GET hit, requests/s", "get100", 32, "larder-epoll", "axum", per_second, 1.0),
    ("GET hit, requests/s", "get100", 32, "larder-tiny", "gin", per_second, 1.0),
    ("durable PUT on the card, 64 connections, requests/s", "put1k-card", 64, "larder-tiny", "gin", per_second, 2.5),
    ("durable PUT on the card, 64 connections, requests/s", "put1k-card", 64, "larder-epoll", "gin", per_second, 2.5),
    ("GET of uniformly chosen keys, most not cached, requests/s", "cold", 32, "larder-tiny", "axum", per_second, 1.0),
    ("GET of uniformly chosen keys, most not cached, requests/s", "cold", 32, "larder-epoll", "axum", per_second, 1.0),
)
# Sentence, workload, connections, ours, field, divisor, unit, at most.
MOST = (
    ("10 000 idle connections, RSS", "idle10k", 32, "larder-epoll", "rss_idle_kib", 1024, "MiB", 15),
    ("GET p99 beside the 95/5 mix on the card", "mix-card", 32, "larder-tiny", "probe_p99_us", 1000, "ms", 2),
    ("GET p99 beside the 95/5 mix on the card", "mix-card", 32, "larder-epoll", "probe_p99_us", 1000, "ms", 2),
)


def verdict(numbers, is_met, text):
    middle = statistics.median(numbers)
    return f"{text(middle)} ({text(min(numbers))}–{text(max(numbers))}) | {'met' if is_met(middle) else '**missed**'}"


def targets(by_cell):
    """Markdown lines: each target that the cells allow to judge."""
    rows = []
    for sentence, work, connections, ours, theirs, value, least in RATIOS:
        found = ratios(by_cell, work, connections, ours, theirs, value)
        if found:
            said = verdict(found, lambda n, least=least: n >= least, lambda n: f"{n:.2f}")
            rows.append(f"| {sentence}, {ours} ÷ {theirs} | ≥ {least} | {said} |")
    for sentence, work, connections, ours, field, divisor, unit, most in MOST:
        found = [cell[field] / divisor for cell in by_cell.get((work, connections), {}).get(ours, []) if field in cell]
        if found:
            said = verdict(found, lambda n, most=most: n <= most, lambda n: f"{n:.1f}")
            rows.append(f"| {sentence}, {ours} | ≤ {most} {unit} | {said} |")
    if not rows:
        return []
    return ["## Targets", "", "Median over the rounds (least–most).", "",
            "| | target | measured | |", "|---|---|---|---|", *rows, ""]


CHANGES = (("mean", "mean_us"), ("p95", "p95_us"), ("RSS", "rss_kib"), ("CPU a request", "cpu_us"), ("start", "start_ms"))


def against_express(by_cell, names):
    """Markdown lines: the change in % from the Express server to larder, for each cell that both can do."""
    rows = []
    for (work, connections), by_peer in by_cell.items():
        for ours in (name for name in names if name.startswith("larder")):
            changes = []
            for _, field in CHANGES:
                old, new = ([cell[field] for cell in by_peer.get(peer, []) if field in cell] for peer in ("express", ours))
                if old and new and statistics.median(old):
                    changes.append(f"{statistics.median(new) / statistics.median(old) * 100 - 100:+.0f} %")
                else:
                    changes.append("–")
            if any(change != "–" for change in changes):
                rows.append(f"| `{work}@{connections}` | {ours} | " + " | ".join(changes) + " |")
    if not rows:
        return []
    return ["## From the Express server to larder", "",
            "The change of the median, in %: a negative one is less time, memory or CPU.", "",
            "| | | " + " | ".join(name for name, _ in CHANGES) + " |", "|---" * (2 + len(CHANGES)) + "|", *rows, ""]
