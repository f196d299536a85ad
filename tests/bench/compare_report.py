"""Writes what compare.py measured: result.json (every run), report.md (tables), report.svg (ratios to FLOOR)."""

import html
import json
import math
import statistics

GOALS = {"A": 0.85, "A5": 0.20, "B": 0.04}  # Of the edge: CPU a delivery, of FLOOR's in A.
MEMORY_GOAL_KIB, HANDSHAKE_GOAL_US = 6, 18
SERVED_GOAL_S, ANSWERED_GOAL_MS = 2, 1000  # Of all that come back at once.
FAN_OUT = ("A", "A5", "B")
BUSY = 0.05  # Of the server's core, used by others: the run says little.
FULL = 0.97  # Of a core: whoever used it was at its limit.

WIDTH, LEFT, RIGHT, ROW, HEAD = 900, 150, 110, 22, 34
COLOURS = {"floor": "#999999", "edge": "#0072b2"}
OTHERS = "#d55e00"
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222; } .small { font-size: 11px; } .grid { stroke: #8886; }
.one { stroke: #222; } .range { stroke: #222; stroke-width: 1.5; } .goal { stroke: #009e73; stroke-width: 2; }
.back { fill: #fff; }
@media (prefers-color-scheme: dark) { text { fill: #ddd; } .back { fill: #161616; } .one, .range { stroke: #ddd; } }
"""


def write(folder, result):
    (folder / "result.json").write_text(json.dumps({**result, "summary": summary(result)}, indent=1), encoding="utf-8")
    (folder / "report.md").write_text("\n".join(markdown(result)), encoding="utf-8")
    (folder / "report.svg").write_text(svg(result), encoding="utf-8")


# --- what the runs come to --------------------------------------------------------------------------------------------

def summary(result):
    """{scenario: {server: figures}}; medians over the runs of a server, and of the ratios of its pairs."""
    out = {}
    for run in result["runs"]:
        out.setdefault(run["scenario"], {}).setdefault(run["server"], None)
    floor_a = {number: middle(run["us"] for run in measured(result, "A", "floor") if run["round"] == number)
               for number in {run["round"] for run in result["runs"]}}
    for scenario, servers in out.items():
        floors = {run["pair"]: run for run in measured(result, scenario, "floor")}
        order = [name for name in result["servers"] if name in servers]
        out[scenario] = {name: figures(measured(result, scenario, name), floors, floor_a) or problems_of(result, scenario, name)
                         for name in order}
    return out


def measured(result, scenario, server):
    return [run for run in result["runs"] if run["scenario"] == scenario and run["server"] == server and "us" in run]


def problems_of(result, scenario, server):
    return {"runs": 0, "problems": sorted({run.get("missing") or run.get("problem", "") for run in result["runs"]
                                           if run["scenario"] == scenario and run["server"] == server})}


def figures(runs, floors, floor_a):
    if not runs:
        return None
    # A run that lost messages has done less than was asked of it.
    pairs = [(run, floors[run["pair"]]) for run in runs if run["pair"] in floors]
    ratios = [run["us"] / floor["us"] for run, floor in pairs]
    found = {"runs": len(runs), "us": middle(run["us"] for run in runs), "us_min": min(run["us"] for run in runs),
             "us_max": max(run["us"] for run in runs), "ratio": middle(ratios), "ratio_min": min(ratios, default=None),
             "ratio_max": max(ratios, default=None),
             "of_floor_a": middle(run["us"] / floor_a[run["round"]] for run in runs if floor_a.get(run["round"])),
             "problems": sorted({run["problem"] for run in runs if run.get("problem")})}
    for name in ("deliveries_s", "kernel", "bytes", "server_core", "client_core", "others_core", "handshakes_s", "kib",
                 "left_mib", "again_kib", "clients", "requests"):
        if name in runs[0]:
            found[name] = middle(run[name] for run in runs)
    if "delivered" in runs[0]:
        found["delivered"] = sum(run["delivered"] for run in runs)
        found["expected"] = sum(run["expected"] for run in runs)
    if "served_ms" in runs[0]:
        found["all_s"] = middle(run["seconds"] for run in runs)
        found["all_s_max"] = max(run["seconds"] for run in runs)
        found["served_p50"] = middle(run["served_ms"]["p50"] for run in runs)
        for part in ("p50", "p99"):
            found[f"answered_{part}"] = middle(run["answered_ms"][part] for run in runs)
    if "latency_ms" in runs[0]:
        for part in ("p50", "p99", "max"):
            found[part] = middle(run["latency_ms"][part] for run in runs)
        found["p99_ratio"] = middle(run["latency_ms"]["p99"] / floor["latency_ms"]["p99"] for run, floor in pairs
                                    if floor["latency_ms"]["p99"] > 0)
    return found


def middle(numbers):
    numbers = list(numbers)
    return statistics.median(numbers) if numbers else None


# --- tables -----------------------------------------------------------------------------------------------------------

def number(value, form=".2f"):
    return "-" if value is None else format(value, form)


def table(head, lines):
    """Columns of one width, so that a terminal shows it as well."""
    widths = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]
    rows = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in [head, *lines]]
    return [rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:], ""]


def tables(result):
    found = summary(result)
    out = []
    for scenario in FAN_OUT:
        if scenario in found:
            out += table([scenario, "runs", "us/delivery", "min..max", "ratio to FLOOR", "min..max", "of FLOOR's A", "kernel",
                          "p50 ms", "p99 ms", "p99 ratio", "k/s", "bytes", "came", "cores: server, clients, others"],
                         [fan_out_line(name, of) for name, of in found[scenario].items()])
    if "memory" in found:
        out += table(["memory", "runs", "KiB an idle client", "second time", "MiB left when all had gone",
                      "us to connect and subscribe"],
                     [[name, str(of["runs"]), number(of["kib"]), number(of["again_kib"]), number(of["left_mib"]),
                       number(of["us"], ".1f")] if of["runs"] else [name, "-", *of["problems"][:1], "-", "-", "-"]
                      for name, of in found["memory"].items()])
    if "handshake" in found:
        out += table(["handshake", "runs", "us of CPU", "min..max", "ratio to FLOOR", "handshakes/s"],
                     [[name, str(of["runs"]), number(of["us"], ".1f"), f"{of['us_min']:.1f}..{of['us_max']:.1f}",
                       number(of["ratio"]), f"{of['handshakes_s']:,.0f}"] if of["runs"] else
                      [name, *["-"] * 5] for name, of in found["handshake"].items()])
    if "return" in found:
        out += table(["return", "runs", "clients", "all served s", "most", "half served ms", "answered p50 ms", "p99 ms",
                      "us a client", "asked of the broker", "came"],
                     [return_line(name, of) for name, of in found["return"].items()])
    return out + notes(found)


def return_line(name, of):
    if not of["runs"]:
        return [name, *["-"] * 10]
    return [name, str(of["runs"]), f"{of['clients']:,.0f}", number(of["all_s"]), number(of["all_s_max"]),
            number(of["served_p50"], ".0f"), number(of["answered_p50"], ".0f"), number(of["answered_p99"], ".0f"),
            number(of["us"], ".0f"), f"{of['requests']:.0f}", came(of)]


def came(of):
    return "all" if of["delivered"] == of["expected"] else f"{of['delivered']:,} of {of['expected']:,}"


def fan_out_line(name, of):
    if not of["runs"]:
        return [name, *["-"] * 14]  # notes() says why.
    return [name, str(of["runs"]), number(of["us"], ".3f"), f"{of['us_min']:.3f}..{of['us_max']:.3f}", number(of["ratio"], ".3f"),
            f"{number(of['ratio_min'], '.3f')}..{number(of['ratio_max'], '.3f')}", number(of["of_floor_a"], ".3f"),
            f"{of['kernel']:.0%}", number(of["p50"]), number(of["p99"]), number(of["p99_ratio"]),
            f"{of['deliveries_s'] / 1000:,.0f}", f"{of['bytes']:.0f}", came(of),
            f"{of['server_core']:.0%}, {of['client_core']:.0%}, {of['others_core']:.0%}"]


def notes(found):
    """What the goals make of it, and what speaks against a figure."""
    goals = [*((scenario, "of_floor_a", goal, "of FLOOR's A") for scenario, goal in GOALS.items()),
             ("A", "p99_ratio", 1, "of FLOOR's p99"), ("memory", "kib", MEMORY_GOAL_KIB, "KiB an idle client"),
             ("handshake", "us", HANDSHAKE_GOAL_US, "us of CPU a handshake"),
             ("return", "all_s", SERVED_GOAL_S, "s until all are served"),
             ("return", "answered_p99", ANSWERED_GOAL_MS, "ms until 99 % are answered")]
    out = []
    for scenario, name, goal, unit in goals:
        edge = found.get(scenario, {}).get("edge", {})
        if edge.get(name) is not None:
            crowded = max(found[scenario].get(server, {}).get("others_core", 0) for server in ("edge", "floor")) > BUSY
            verdict = "not judged, others had the core" if crowded else "reached" if edge[name] <= goal else "not reached"
            out.append(f"- goal {scenario}: {edge[name]:.3g} {unit}, at most {goal:g}: {verdict}")
    for scenario, servers in found.items():
        for name, of in servers.items():
            out += [f"- {scenario}, {name}: {problem}" for problem in of["problems"]]
            if of.get("others_core") and of["others_core"] > BUSY:
                out.append(f"- {scenario}, {name}: others took {of['others_core']:.0%} of the server's core")
            if scenario in ("A", "A5") and of.get("server_core", 0) > FULL:
                out.append(f"- {scenario}, {name}: the server was at its limit ({of['server_core']:.0%} of a core)")
            if scenario == "B" and of.get("client_core", 0) + 0.03 > FULL > of.get("server_core", 1):
                out.append(f"- B, {name}: the clients were at their limit, not the server: its k/s is a lower bound")
    return out


def markdown(result):
    options = result["options"]
    return ["# The edge side by side", "", result["title"], "",
            f"A: {options['clients']:,} clients x {options['rate']:g} events/s; A5: the same in bursts of 5; B: {options['window']} "
            f"events in flight, as fast as they go; runs of {options['seconds']:g} s. CPU is the server's user and system time. "
            f"Memory and handshake: {options['idle_clients']:,} clients.", "", *tables(result), "", "![ratios](report.svg)", ""]


# --- the plot ---------------------------------------------------------------------------------------------------------

def svg(result):
    """A bar a server and scenario: CPU a delivery as a part of FLOOR's in the same pair, on a logarithmic axis."""
    panels = [(scenario, {name: of for name, of in servers.items() if of.get("ratio")})
              for scenario, servers in summary(result).items() if scenario in FAN_OUT]
    panels = [(scenario, servers) for scenario, servers in panels if servers]
    if not panels:
        return '<svg xmlns="http://www.w3.org/2000/svg"/>'
    everything = [of[name] for _, servers in panels for of in servers.values() for name in ("ratio_min", "ratio_max")]
    low = 10 ** math.floor(math.log10(min([0.5, *everything])))
    high = max(2.0, *everything) * 1.1
    height = sum(HEAD + ROW * len(servers) for _, servers in panels) + 40

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(max(value, low) / low) / math.log(high / low)

    marks = [step * 10 ** power for power in range(-3, 3) for step in (1, 2, 5) if low <= step * 10 ** power <= high]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
           f'<style>{STYLE}</style><rect class="back" width="{WIDTH}" height="{height}"/>']
    for mark in marks:
        out += [f'<line class="{"one" if mark == 1 else "grid"}" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{HEAD - 10}" '
                f'y2="{height - 30}"/>',
                f'<text class="small" x="{x(mark):.1f}" y="{height - 14}" text-anchor="middle">{mark:g}</text>']
    top = 0
    for scenario, servers in panels:
        out.append(f'<text x="8" y="{top + HEAD - 12}">{scenario}: CPU a delivery, FLOOR is 1</text>')
        top += HEAD
        for name, of in servers.items():
            colour = COLOURS.get(name.partition("-")[0].partition("@")[0], OTHERS)
            y = top + ROW / 2
            out += [f'<text class="small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{html.escape(name[-24:])}</text>',
                    f'<rect fill="{colour}" x="{LEFT}" width="{max(x(of["ratio"]) - LEFT, 1):.1f}" y="{top + 4}" '
                    f'height="{ROW - 8}"/>',
                    f'<line class="range" x1="{x(of["ratio_min"]):.1f}" x2="{x(of["ratio_max"]):.1f}" y1="{y}" y2="{y}"/>',
                    f'<text class="small" x="{x(of["ratio_max"]) + 6:.1f}" y="{y + 4:.1f}">{of["ratio"]:.3f} '
                    f'({of["us"]:.2f} us)</text>']
            top += ROW
    return "\n".join([*out, "</svg>", ""])
