#!/usr/bin/env python3
"""Writes the figures of the last run of the benches into the documents.

    benches/figures.py TARGET
    benches/figures.py --check

TARGET is cargo's target folder, in which `make bench` and `make bench-breathing` left their results.
A block of a document between `<!-- figures: NAME -->` and `<!-- end of figures: SUM -->` is replaced by
what the function of that name returns, and SUM by a checksum of that. Prose around the blocks is
written by hand. With --check nothing is written, and no results are needed: the exit status is 1 if a
block is not as it was written, or is missing.
"""

import hashlib
import json
import math
import re
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "docs/performance.md", "benches/README.md"]
BLOCK = re.compile(r"<!-- figures: (\w+) -->\n(.*?)<!-- end of figures(?:: (\w+))? -->", re.S)
MARKER = re.compile(r"<!-- (?:figures|end of figures)\b.*?-->")

BASE, OURS = "built-in", "ebbtide"
PEERS = ["mimalloc-v2", "mimalloc-v3", "jemalloc", "snmalloc", "libc"]


class Programs:
    """The runs of whole programs: by program and allocator what was measured in each round."""

    def __init__(self, target):
        path = target / "bench/programs.json"
        self.all = json.loads(path.read_text())
        self.runs = {}
        for run in self.all["runs"]:
            self.runs.setdefault(run["program"], {})[run["allocator"]] = run

    def whole(self):
        """Programs that count for the means: blocks-N replace blocks, and are no programs."""
        return [name for name in self.runs if not name.startswith("blocks-")]

    def ratios(self, program, over, under, key):
        """One allocator's figure divided by another's, round by round."""
        rounds = zip(self.runs[program][over][key], self.runs[program][under][key])
        return [a / b for a, b in rounds]

    def ratio(self, program, over, under, key):
        return median(self.ratios(program, over, under, key))

    def best(self, program, key):
        """The peer with the least median."""
        runs = self.runs[program]
        present = [peer for peer in PEERS if peer in runs]
        return min(present, key=lambda peer: median(runs[peer][key]))

    def mean(self, key, peer):
        """The geometric mean over all programs of `peer(program)` against ours."""
        logs = [math.log(self.ratio(name, peer(name), OURS, key)) for name in self.whole()]
        return math.exp(sum(logs) / len(logs))

    def figure(self, what):
        for figure in self.all["figures"]:
            if figure["what"] == what:
                return figure
        sys.exit(f"figures.py: programs.json has no figure '{what}'")


def table(header, rows):
    line = lambda cells: "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"
    rule = "|" + "---|" * len(header) + "\n"
    return line(header) + rule + "".join(line(row) for row in rows)


def measured(target, bench):
    """The commit that a bench has measured, and the day: `make` leaves both beside the results."""
    path = target / f"bench/{bench}.measured"
    commit, day = path.read_text().split()
    return f"{commit}, {day}"


def text(target, name):
    """What a bench printed, as it was."""
    lines = (target / f"bench/{name}.txt").read_text().rstrip()
    return f"```text\n{lines}\n```\n"


def both(figure, digits=1):
    """The figure on LuaJIT's allocator and on ours."""
    unit = figure["unit"]
    return [f"{figure[key]:.{digits}f} {unit}" for key in ("base", "seen")]


def summary(target):
    programs = Programs(target)
    idle = programs.figure("service, PSS idle after peak 3, reclaimed")
    empty = programs.figure("service, PSS over the start, all dropped")
    scatter = programs.runs["scatter"]
    peaks = [f"{median(scatter[name]['rss_peak_bytes']) / 2**20:.1f} MB" for name in (BASE, OURS)]
    builtin = lambda _: BASE
    time, peak = programs.mean("time", builtin), programs.mean("rss_peak_bytes", builtin)
    count = len(programs.whole())
    rows = [
        ["service after its third peak, collected and reclaimed (PSS)", *both(idle)],
        ["the same service after everything was dropped, above its start (PSS)", *both(empty)],
        ["many survivors among garbage, highest memory of the run (RSS)", *peaks],
        [f"CPU time of {count} programs, geometric mean", "1", f"{1 / time:.2f}"],
        ["peak RSS of these programs, geometric mean", "1", f"{1 / peak:.2f}"],
    ]
    where = f"Measured at commit {measured(target, 'bench')}, on {programs.all['machine']}."
    return table(["", "LuaJIT's allocator", "ebbtide"], rows) + f"\n{where}\n"


def about(target):
    programs = Programs(target).all
    return (
        f"Measured on {programs['machine']}, with {programs['versions']}. `make bench` at commit "
        f"{measured(target, 'bench')}; `make bench-breathing` at commit "
        f"{measured(target, 'bench-breathing')}.\n"
    )


def programs(target):
    return (target / "bench/programs.md").read_text()


def means(target):
    programs = Programs(target)
    present = next(iter(programs.runs.values()))
    names = {BASE: "LuaJIT's own", "libc": "the C library's"}
    rows = []
    for other in [BASE, *PEERS]:
        if other in present:
            same = lambda _, other=other: other
            time, peak = (programs.mean(key, same) for key in ("time", "rss_peak_bytes"))
            rows.append([names.get(other, other), f"{time:.2f}", f"{1 / peak:.2f}"])
    best = [
        programs.mean(key, lambda name, key=key: programs.best(name, key))
        for key in ("time", "rss_peak_bytes")
    ]
    rows.append(["the best peer of each program", f"{best[0]:.2f}", f"{1 / best[1]:.2f}"])
    header = ["against", "ebbtide's speed, a multiple", "ebbtide's peak RSS, a multiple"]
    return table(header, rows)


def behind(target):
    """Programs in which ebbtide is slower than the best peer."""
    programs = Programs(target)
    whole = programs.whole()
    found = []
    for name in whole:
        ratio = programs.ratio(name, programs.best(name, "time"), OURS, "time")
        if ratio < 0.98:
            found.append((ratio, name))
    listed = ", ".join(f"{name} {ratio:.2f}" for ratio, name in sorted(found))
    return (
        f"Against the best peer of each program ebbtide's speed is below 0.98 in {len(found)} of "
        f"{len(whole)} programs: {listed}.\n"
    )


def memory(target):
    programs = Programs(target)
    rows = [
        ["service, PSS after the third peak, collected and reclaimed"]
        + both(programs.figure("service, PSS idle after peak 3, reclaimed")),
        ["service, PSS over the start when all was dropped"]
        + both(programs.figure("service, PSS over the start, all dropped")),
        ["scatter, RSS at the peak of what is live"]
        + both(programs.figure("scatter, RSS at the peak")),
    ]
    for program in ("service", "scatter"):
        runs = programs.runs[program]
        for title, key in (
            ("highest RSS of the run", "rss_peak_bytes"),
            ("RSS at the moment when all is dropped", "rss_dropped_bytes"),
            ("RSS after that and a full reclaim", "rss_purged_bytes"),
        ):
            values = [f"{median(runs[name][key]) / 2**20:.1f} MB" for name in (BASE, OURS)]
            rows.append([f"{program}, {title}", *values])
    share = programs.figure("scatter, bytes of metadata in a hundred of heap")
    speed = programs.figure("service, speed of the first reclaim")
    rows.append(["scatter, metadata, share of the heap", "", f"{share['seen']:.2f} %"])
    rows.append(["service, speed of the first reclaim", "", f"{speed['seen']:.1f} GB/s"])
    return table(["what", "LuaJIT's own", "ebbtide"], rows)


def scale(target):
    figures = json.loads((target / "bench/scale.json").read_text())["figures"]
    rows = [[f["what"], f"{f['seen']:.2f} {f['unit']}".rstrip()] for f in figures]
    return table(["what", "figure"], rows)


def pauses(target):
    return text(target, "pauses")


def breathing(target):
    return text(target, "breathing")


def doors(target):
    return text(target, "doors")


def heap(target):
    """Criterion's medians, a row for each bench, in the order of their names."""
    found = {}
    for path in (target / "criterion").glob("**/new/estimates.json"):
        bench = json.loads((path.parent / "benchmark.json").read_text())
        parts = [bench["function_id"], bench["value_str"]]
        allocator = next((part for part in parts if part in [OURS, *PEERS]), None)
        # snmalloc has no call that gives memory back.
        is_missing = allocator == "snmalloc" and bench["group_id"].startswith("reclaim")
        if allocator is None or is_missing:
            continue
        rest = ", ".join(part for part in parts if part and part != allocator)
        ns = json.loads(path.read_text())["median"]["point_estimate"]
        found.setdefault((bench["group_id"], rest), {})[allocator] = ns
    rows = []
    for (group, rest), values in sorted(found.items(), key=lambda item: order(item[0])):
        units = ((1e6, "ms"), (1e3, "µs"), (1, "ns"))
        scale, unit = next(unit for unit in units if values[OURS] >= unit[0] or unit[0] == 1)
        cells = [f"{values[a] / scale:,.1f}" if a in values else "–" for a in [OURS, *PEERS]]
        rows.append([f"{group}, {rest}, {unit}" if rest else f"{group}, {unit}", *cells])
    return table(["what", OURS, *PEERS], rows)


def order(key):
    """By name, numbers by their value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", ", ".join(key))]


BLOCKS = {
    function.__name__: function
    for function in (
        summary, about, programs, means, behind, memory, scale, pauses, breathing, doors, heap
    )
}


def checksum(block):
    return hashlib.sha256(block.encode()).hexdigest()[:8]


def faults(pages):
    """What is wrong with the blocks of the pages, a line each. `pages`: their texts by name."""
    seen = []
    for page, text in pages.items():
        for name, block, found in BLOCK.findall(text):
            seen.append(name)
            if found != checksum(block):
                yield f"{page}: the figures '{name}' were changed by hand: run `make bench-figures`"
        if MARKER.search(BLOCK.sub("", text)):
            yield f"{page}: a block of figures without its other end"
    for name in sorted(set(seen) - set(BLOCKS)):
        yield f"no figures are called '{name}'"
    for name in BLOCKS:
        if seen.count(name) != 1:
            yield f"the figures '{name}' stand in {seen.count(name)} places"


def written(text, target):
    """The text of a page with the figures of the last run."""

    def fill(match):
        name = match[1]
        if name not in BLOCKS:
            sys.exit(f"figures.py: no figures are called '{name}'")
        block = BLOCKS[name](target)
        return f"<!-- figures: {name} -->\n{block}<!-- end of figures: {checksum(block)} -->"

    return BLOCK.sub(fill, text)


def main(arguments, root=ROOT):
    if len(arguments) != 1:
        sys.exit(__doc__)
    pages = {page: (root / page).read_text() for page in PAGES}
    if arguments == ["--check"]:
        found = list(faults(pages))
        for fault in found:
            print(f"figures.py: {fault}", file=sys.stderr)
        return 1 if found else 0
    try:
        after = {page: written(text, Path(arguments[0])) for page, text in pages.items()}
    except FileNotFoundError as error:
        sys.exit(f"figures.py: no {error.filename}: run `make bench` and `make bench-breathing`")
    for page in PAGES:
        if after[page] != pages[page]:
            (root / page).write_text(after[page])
            print(f"written: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
