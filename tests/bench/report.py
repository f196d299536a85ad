"""Writes what load.py found: result.json, report.md (tables), report.svg (the samples over time)."""

import html
import json
import math
import statistics

from verdict import MIB, growth, median_of, of, series, values

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 1000, 150, 70, 150, 50, 34
POINTS_MAX = 500  # Of one line; more are put together, the largest of each.
# Told apart by people who do not see all colours (Okabe and Ito), readable on white and on black.
STEPS = [1, 2, 5, 10, 15, 20, 30, 60, 120, 240, 10 ** 9]  # Of the axis of time.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999"]
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222; } .small { font-size: 11px; } .grid { stroke: #8886; }
.row { stroke: #888; stroke-dasharray: 3 3; } .back { fill: #fff; } polyline { fill: none; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) { text { fill: #ddd; } .back { fill: #161616; } polyline { filter: brightness(1.35); } }
"""


def write(folder, title, rows):
    lean = [{key: value for key, value in row.items() if key != "samples"} for row in rows]
    (folder / "result.json").write_text(json.dumps({"title": title, "rows": lean}, indent=1))
    (folder / "report.md").write_text(markdown(title, rows), encoding="utf-8")
    (folder / "report.svg").write_text(svg(rows), encoding="utf-8")


# --- tables -----------------------------------------------------------------------------------------------------------

def table(head, lines):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *["| " + " | ".join(line) + " |" for line in lines], ""]


def mib(size):
    return "-" if size is None else f"{size / MIB:.1f}"


def markdown(title, rows):
    failed = [(row, problem) for row in rows for problem in row["problems"]]
    out = ["# Load test", "", title, "",
           f"**{'failed: ' + str(len(failed)) if failed else 'everything held'}**", ""]
    out += [f"- {row['name']}: {problem}" for row, problem in failed] + [""] * bool(failed)
    out += ["Values are new answers of the engine, events come by `sigmacast publish`; offered to each client that was there "
            "all the time. Latency is from the engine's answer (or the line to publish) to the client.", ""]
    out += table(["row", "clients", "time", "connected", "offered values + events /s", "offered", "came", "messages/s",
                  "p50, p99, max ms", "longest silence s", "pings, each at least"],
                 [client_line(row) for row in rows if "result" in row])
    out += ["Memory is resident, in MiB; growth is that of the line fitted to the second half of the load.", ""]
    out += table(["row", "program", "before", "under load", "after", "again", "growth", "MiB/h",
                  "descriptors before, most, after", "threads", "of a core"], [program_line(row, name) for row in rows for name in names_of(row)])
    out += ["![samples](report.svg)", ""]
    for row in rows:
        if problems := row.get("result", {}).get("problems"):
            out += [f"First problems of the clients in row {row['name']}:", "",
                    *[f"- {problem}" for problem in problems], ""]
        if row["logged"]:
            out += [f"Log lines at warn or worse in row {row['name']}: {len(row['logged'])}", "", "```",
                    *row["logged"][:20], "```", ""]
    return "\n".join(out)


def client_line(row):
    result, checked = row["result"], row["checked"]
    latency, seconds = result["latency_ms"], max(row["minutes"] * 60, 1)
    return [row["name"], f"{row['clients']:,}", f"{row['minutes'] * 60:.0f} s", f"{result['connected']:,} of {result['tried']:,}",
            f"{row['values']:g} + {row['events']:g}", f"{checked['offered']:,}", f"{checked['received']:,}",
            f"{result['messages'] / seconds:,.0f}",
            f"{latency['p50']:.1f}, {latency['p99']:.1f}, {latency['max']:.1f}", f"{result['silence_s_max']:.1f}",
            f"{result['pings']:,}, {result['pings_min']}"]


def names_of(row):
    return list(row["samples"][0]["programs"]) if row["samples"] else []


def program_line(row, name):
    rise, an_hour = growth(row, name)
    files = [values(series(row, name, "fds", phase)) for phase in ("before", "load", "after")]
    cpu = series(row, name, "cpu", "load")
    took = cpu[-1][0] - cpu[0][0] if len(cpu) > 1 else 0
    return [row["name"], name, *[mib(median_of(row, name, phase)) for phase in ("before", "load", "after", "again")],
            f"{rise / MIB:+.2f}", f"{an_hour / MIB:+.1f}",
            ", ".join(f"{choose(found):,}" for choose, found in zip((max, max, lambda found: found[-1]), files) if found),
            str(max(values(series(row, name, "threads", "load")), default=0)),
            f"{(cpu[-1][1] - cpu[0][1]) / took:.1%}" if took else "-"]


# --- the plot ---------------------------------------------------------------------------------------------------------

class Panel:
    """One quantity over time: {name: lines of (t, value), one a row}."""

    def __init__(self, title, lines, log=False):
        self.title, self.log = title, log
        self.lines = {name: [thin(points) for points in parts] for name, parts in lines.items()}
        found = [value for parts in self.lines.values() for points in parts for _, value in points if value > 0 or not log]
        self.high = max(found, default=1) or 1
        if log:
            self.low = 10 ** math.floor(math.log10(min(found, default=1)))
            self.high = max(10 ** math.ceil(math.log10(self.high)), self.low * 10)
        else:
            step = 10 ** math.floor(math.log10(self.high))
            self.low, self.high = 0, math.ceil(self.high / step * 2) * step / 2

    def part(self, value):
        """0 at the bottom, 1 at the top."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return value / self.high

    def marks(self):
        if not self.log:
            return [self.high * i / 4 for i in range(5)]
        decades = round(math.log10(self.high / self.low))
        return [self.low * 10 ** i for i in range(0, decades + 1)]


def thin(points):
    """Not more than can be seen, without losing a peak."""
    size = math.ceil(len(points) / POINTS_MAX) or 1
    return [(statistics.median(t for t, _ in points[i:i + size]), max(value for _, value in points[i:i + size]))
            for i in range(0, len(points), size)]


def panels_of(rows):
    names = names_of(rows[0])

    def lines(of_sample, *phases):
        return [[(sample["t"], value) for sample in (of(row, *phases) if phases else row["samples"])
                 if (value := of_sample(sample)) is not None] for row in rows]

    def of_program(member, scale=1):
        return {name: lines(lambda sample, name=name: sample["programs"][name][member] / scale) for name in names}

    return [Panel("resident memory, MiB", of_program("rss", MIB)),
            Panel("open clients (none is drawn as 1)", {"clients": lines(lambda sample: max(sample["clients"], 1))}, log=True),
            Panel("latency within each interval, ms", {part: lines(lambda sample, part=part: sample["latency_ms"].get(part),
                                                                   "load") for part in ("p50", "p99", "max")}, log=True),
            Panel("CPU, % of a core", {name: [rate(points) for points in parts] for name, parts in
                                       of_program("cpu", 0.01).items()}),
            Panel("descriptors", of_program("fds"), log=True)]


def rate(points):
    """A second, between samples that are far enough apart for the clock's ticks."""
    return [(t2, (v2 - v1) / (t2 - t1)) for (t1, v1), (t2, v2) in zip(points, points[1:]) if t2 - t1 > 0.2]


def svg(rows):
    rows = [row for row in rows if row["samples"]]
    if not rows:
        return '<svg xmlns="http://www.w3.org/2000/svg"/>'
    panels = panels_of(rows)
    height = TOP + len(panels) * (PANEL + GAP) + 10
    begin, end = rows[0]["samples"][0]["t"], rows[-1]["samples"][-1]["t"]
    scale = (WIDTH - LEFT - RIGHT) / max(end - begin, 1e-9)

    def x(t):
        return LEFT + (t - begin) * scale

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
           f'<style>{STYLE}</style><rect class="back" width="{WIDTH}" height="{height}"/>']
    for row in rows:
        at = x(row["samples"][0]["t"])
        out += [f'<line class="row" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 18}" y2="{height - GAP}"/>',
                f'<text x="{at + 3:.1f}" y="{TOP - 22}">{html.escape(row["name"])}</text>']
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("min", 60), ("s", 1))
                      if end - begin >= 2 * size or size == 1)
    for number, panel in enumerate(panels):
        out += draw(panel, TOP + number * (PANEL + GAP), x)
    step = next(step for step in STEPS if (end - begin) / size / step <= 10)
    for i in range(int((end - begin) / size / step) + 1):
        out.append(f'<text class="small" x="{x(begin + i * step * size):.1f}" y="{height - 18}" text-anchor="middle">'
                   f'{i * step} {unit}</text>')
    return "\n".join([*out, "</svg>", ""])


def draw(panel, top, x):
    def y(value):
        return top + PANEL * (1 - panel.part(value))

    out = [f'<text x="{LEFT + 4}" y="{top - 5}" class="small">{panel.title}</text>']
    for mark in panel.marks():
        out += [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>',
                f'<text class="small" x="{LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:,g}</text>']
    for number, (name, parts) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        for points in parts:
            path = " ".join(f"{x(t):.1f},{y(value):.1f}" for t, value in points)
            out.append(f'<polyline stroke="{colour}" points="{path}"/>')
        out += [f'<line x1="{WIDTH - RIGHT + 10}" x2="{WIDTH - RIGHT + 28}" y1="{top + 10 + 17 * number}" '
                f'y2="{top + 10 + 17 * number}" stroke="{colour}" stroke-width="3"/>',
                f'<text class="small" x="{WIDTH - RIGHT + 34}" y="{top + 14 + 17 * number}">{name}</text>']
    return out
