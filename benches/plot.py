#!/usr/bin/env python3
"""Draws the results of the benches and of the demo as pictures: SVG that needs nothing but a viewer.

    benches/plot.py FILE.json [FOLDER]

FILE is what `programs`, `scale`, `nginx` or `demo` wrote with their results. The pictures go into
FOLDER, by default the file's own, and their paths are printed. A viewer that prefers dark colours
gets them.
"""

import json
import math
import sys
from html import escape
from pathlib import Path
from statistics import median
from textwrap import wrap

WIDTH = 960
MARGIN = 24

# The first colour of data is ebbtide's. Every colour can be read on the ground of its own theme.
LIGHT = {
    "ground": "#ffffff", "band": "#f1f5f6", "grid": "#dfe4e6", "ink": "#1f2a30", "faint": "#5f6b73",
    "data": ["#0b7a85", "#c2571a", "#30638e", "#8e4f9e", "#b08a00", "#c43b5b", "#6b7880"],
    "area": ["#d9edef", "#faeee6"],
}
DARK = {
    "ground": "#12181c", "band": "#1b2329", "grid": "#333e46", "ink": "#e6ecef", "faint": "#9aa7af",
    "data": ["#3fc4cf", "#f0905a", "#79a9dc", "#c893d8", "#d9b84a", "#f0809a", "#a3b0b8"],
    "area": ["#173c42", "#3a281f"],
}


def rules(theme):
    """The theme as CSS: a class for each colour, by name and for lists also by index."""
    for name, value in theme.items():
        for index, colour in enumerate([value] if isinstance(value, str) else value):
            suffix = "" if isinstance(value, str) else index
            yield f".{name}{suffix}{{color:{colour}}}"


STYLE = (
    "text,rect,circle,polygon{fill:currentColor}"
    "polyline{fill:none;stroke:currentColor;stroke-linejoin:round}\n"
    + "".join(rules(LIGHT))
    + "\n@media(prefers-color-scheme:dark){" + "".join(rules(DARK)) + "}"
)


class Picture:
    """An SVG as it grows. Each element has a class of the style, which is its colour."""

    def __init__(self, bottom, title, subtitle, footnotes):
        """With room for the drawing from 80 to `bottom`, and the footnotes below."""
        lines = [part for line in footnotes for part in wrap(line, 140, break_on_hyphens=False)]
        height = bottom + 16 * len(lines) + 16
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}" '
            f'font-family="sans-serif">\n<style>{STYLE}</style>'
        ]
        self.rectangle("ground", 0, 0, WIDTH, height)
        self.text("ink", MARGIN, 40, title, 21, weight="bold")
        self.text("faint", MARGIN, 63, subtitle, 13)
        for index, line in enumerate(lines):
            self.text("faint", MARGIN, bottom + 16 * (index + 1), line, 11)

    def add(self, element, colour, attributes, content=None):
        shown = "".join(
            f' {name}="{round(value, 1) if isinstance(value, float) else value}"'
            for name, value in attributes.items() if value is not None
        )
        end = "/>" if content is None else f">{escape(content, quote=False)}</{element}>"
        self.parts.append(f'<{element} class="{colour}"{shown}{end}')

    def text(self, colour, x, y, content, size=12, anchor=None, weight=None):
        place = {"x": x, "y": y, "font-size": size}
        self.add("text", colour, place | {"text-anchor": anchor, "font-weight": weight}, content)

    def rectangle(self, colour, left, top, right, bottom, opacity=None):
        size = {"width": right - left, "height": bottom - top}
        self.add("rect", colour, {"x": left, "y": top} | size | {"opacity": opacity})

    def dot(self, colour, x, y, radius, opacity=None):
        self.add("circle", colour, {"cx": x, "cy": y, "r": radius, "opacity": opacity})

    def line(self, colour, points, stroke=1):
        self.add("polyline", colour, {"points": joined(points), "stroke-width": stroke})

    def area(self, colour, points, bottom):
        ends = [(points[0][0], bottom), *points, (points[-1][0], bottom)]
        self.add("polygon", colour, {"points": joined(ends)})

    def legend(self, names, x, y):
        """Names side by side, each behind a dot in its colour."""
        for index, name in enumerate(names):
            self.dot(f"data{index}", x + 4, y - 4, 4)
            self.text("ink", x + 13, y, name)
            x += 13 + width(name) + 14

    def levels(self, values, y, left, right, unit=""):
        """Lines across the drawing at round values; the uppermost one has the unit."""
        for value in values:
            self.line("grid" if value else "faint", [(left, y(value)), (right, y(value))])
            label = f"{value:,}{unit if value == values[-1] else ''}"
            self.text("faint", left - 7, y(value) + 4, label, 11, "end")

    def svg(self):
        return "\n".join([*self.parts, "</svg>\n"])


def joined(points):
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def width(text, size=12):
    """About how wide a text is, in pixels."""
    return 0.54 * size * len(text)


def scale(low, high, start, end):
    """The function from numbers between `low` and `high` to pixels between `start` and `end`."""
    return lambda value: start + (end - start) * (value - low) / (high - low)


def ticks(greatest):
    """Round numbers from 0 to the first one that is above `greatest` by 4 % or more.

    >>> ticks(86.8), ticks(99), ticks(0.21)
    ([0, 20, 40, 60, 80, 100], [0, 20, 40, 60, 80, 100, 120], [0, 0.05, 0.1, 0.15, 0.2, 0.25])
    >>> ticks(0)
    [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2]
    """
    greatest = greatest or 1
    power = 10 ** math.floor(math.log10(greatest / 5))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if greatest <= 8 * step * power)
    values = [float(f"{index * step:.6g}") for index in range(math.ceil(greatest * 1.04 / step) + 1)]
    return [int(value) if value.is_integer() else value for value in values]


def beside(labels):
    """Those of labels (place, text), in order of place, that fit side by side. The last one stays.

    >>> beside([(0, "1"), (60, "1,000"), (80, "3,000"), (110, "10,000")])
    [(110, '10,000'), (60, '1,000'), (0, '1')]
    """
    kept, free = [], math.inf
    for place, text in reversed(labels):
        half = width(text, 11) / 2 + 4
        if place + half <= free:
            kept.append((place, text))
            free = place - half
    return kept


def draw_curves(data):
    """Memory over time. A curve has its name and its last value at its end, not in a legend."""
    left, right, top, bottom = 72, 784, 112, 396
    picture = Picture(bottom + 32, data["title"], data["subtitle"], data["footnotes"])
    points = [point for curve in data["curves"] for point in curve["points"]]
    levels = ticks(max(point[1] for point in points))
    end = max(point[0] for point in points)
    x, y = scale(0, end, left, right), scale(0, levels[-1], bottom, top)
    for band in data["bands"]:
        start, stop = x(band["from"]), x(band["to"])
        picture.rectangle("band", start, top - 24, stop, bottom, band["shade"])
        if width(band["name"], 11) <= stop - start:
            picture.text("faint", (start + stop) / 2, top - 8, band["name"], 11, "middle")
    curves = [
        (len(data["curves"]) - 1 - index, curve["name"], curve["points"][-1][1],
         [(x(seconds), y(megabytes)) for seconds, megabytes in curve["points"]])
        for index, curve in enumerate(data["curves"])
    ]
    for colour, _, _, places in curves:
        picture.area(f"area{colour}", places, bottom)
    picture.levels(levels, y, left, right, " MB")
    for seconds in ticks(end):
        if seconds <= end:
            picture.text("faint", x(seconds), bottom + 20, f"{seconds} s", 11, "middle")
    lowest = bottom - 2
    for colour, name, last, places in sorted(curves, key=lambda curve: curve[2]):
        # Labels at the ends of curves keep their distance.
        at = min(places[-1][1] + 4, lowest)
        lowest = at - 52
        picture.text(f"data{colour}", right + 14, at - 18, name, 13)
        picture.text(f"data{colour}", right + 14, at + 2, f"{last:.1f} MB", 19, weight="bold")
    for colour, _, _, places in curves:
        picture.line(f"data{colour}", places, 2.5)
        picture.dot(f"data{colour}", *places[-1], 4)
    for note in data["notes"]:
        for index, line in enumerate(reversed(note["lines"])):
            place = (x(note["at"][0]) + 8, y(note["at"][1]) - 14 * (index + 1))
            picture.text("data0", *place, line, 11)
    return picture.svg()


def draw_ratios(title, subtitle, footnotes, base, names, rows):
    """A row for each program: a dot for the median of each allocator, a line for the first one's range.

    `rows` has for each program a list of ratios for each of `names`; `base` is where 1 is. What is
    beyond three is drawn at the edge.

    >>> rows = [("one", [[0.5, 0.4], [9.0]]), ("two", [[1.0], None])]
    >>> svg = draw_ratios("", "", [], "base", ["ours", "theirs"], rows)
    >>> svg.count("<circle"), 'cx="920.0" cy="136.0"' in svg
    (5, True)
    """
    left, right, top, pitch = 168, WIDTH - 40, 124, 24
    bottom = top + pitch * len(rows)
    picture = Picture(bottom + 32, title, subtitle, footnotes)
    picture.legend(names, left, 92)
    shown = [ratios if colour == 0 else [median(ratios)]
             for _, row in rows for colour, ratios in enumerate(row) if ratios]
    values = ticks(min(max(map(max, shown), default=1), 3))
    place = scale(0, values[-1], left, right)
    x = lambda ratio: place(min(ratio, values[-1]))
    for value in values:
        picture.line("grid", [(x(value), top), (x(value), bottom)])
        picture.text("faint", x(value), bottom + 20, f"{value:,}", anchor="middle")
    picture.line("faint", [(x(1), top - 6), (x(1), bottom)])
    picture.text("faint", x(1), top - 10, base, 11, "middle")
    for index, (name, row) in enumerate(rows):
        y = top + pitch * (index + 0.5)
        picture.line("grid", [(left, y), (right, y)], 0.5)
        picture.text("ink", left - 12, y + 4, name, anchor="end")
        if row[0]:
            picture.line("data0", [(x(min(row[0])), y), (x(max(row[0])), y)], 2)
        # The first one last, on top of the others.
        for colour, ratios in reversed(list(enumerate(row))):
            if ratios:
                radius, opacity = (6, None) if colour == 0 else (4, 0.8)
                picture.dot(f"data{colour}", x(median(ratios)), y, radius, opacity)
    return picture.svg()


def draw_panels(title, subtitle, footnotes, panels):
    """How costs grow: panels side by side, each a title and curves by name over a logarithmic axis.

    A point of a curve is the size, its label, and the cost.

    >>> curve = [(1, "one", 5), (10, "ten", 5), (100, "a hundred", 5)]
    >>> svg = draw_panels("", "", [], [("ns", {"cost": curve})])
    >>> [element.split('"')[3] for element in svg.splitlines() if "<circle" in element]
    ['76.0', '497.0', '918.0']
    """
    top, bottom, gap = 124, 332, 24
    picture = Picture(bottom + 30, title, subtitle, footnotes)
    pitch = (WIDTH - 2 * MARGIN + gap) / len(panels)
    for index, (name, curves) in enumerate(panels):
        start = MARGIN + pitch * index
        left, right = start + 44, start + pitch - gap
        picture.text("ink", start, top - 28, name, weight="bold")
        if len(curves) > 1:
            picture.legend(curves, left, top - 10)
        points = [point for curve in curves.values() for point in curve]
        levels = ticks(max(cost for _, _, cost in points))
        y = scale(0, levels[-1], bottom, top)
        picture.levels(levels, y, left, right)
        sizes = sorted({(math.log(size), label) for size, label, _ in points})
        # A single size stands at the left.
        x = scale(sizes[0][0], max(sizes[-1][0], sizes[0][0] + 1), left + 8, right - 18)
        for place, label in beside([(x(size), label) for size, label in sizes]):
            picture.text("faint", place, bottom + 18, label, 11, "middle")
        for colour, curve in enumerate(curves.values()):
            places = [(x(math.log(size)), y(cost)) for size, _, cost in curve]
            picture.line(f"data{colour}", places, 2)
            for place in places:
                picture.dot(f"data{colour}", *place, 3)
    return picture.svg()


def size_label(size):
    """
    >>> size_label(4 << 20), size_label(8 << 30)
    ('4 MB', '8 GB')
    """
    return f"{size / 2**20:g} MB" if size < 2**30 else f"{size / 2**30:g} GB"


def scale_pictures(data):
    """What one heap costs as it grows, and heaps as there are more."""
    times = {"allocate": lambda row: row["allocate_ns"], "replace": lambda row: row["replace_ns"],
             "free": lambda row: row["free_ns"]}
    each = {name: lambda row, key=f"{name}_s": row[key] / row["x"] * 1e6
            for name in ("reclaim", "make", "delete")}
    sizes = [
        ("ns for an operation", times),
        ("reclaim, ms for each GB of heap",
         {"reclaim": lambda row: row["reclaim_s"] * 1e3 / row["x"] * 2**30}),
        ("metadata, % of the heap",
         {"metadata": lambda row: 100 * row["metadata_bytes"] / row["resident_bytes"]}),
    ]
    counts = [
        ("ns for an operation", times),
        ("µs for each heap", each),
        ("KB of metadata for each heap",
         {"metadata": lambda row: row["metadata_bytes"] / row["x"] / 1024}),
    ]

    def draw(title, subtitle, panels, rows, label):
        panels = [
            (name, {curve: [(row["x"], label(row["x"]), read(row)) for row in rows]
                    for curve, read in curves.items()})
            for name, curves in panels
        ]
        return draw_panels(title, subtitle, [origin(data)], panels)

    flat = "A flat curve is a cost in proportion."
    yield "scale-size", draw("One heap of ebbtide's, from 1 MB to gigabytes",
                             f"Blocks of 16 to 496 bytes. {flat}", sizes, data["sizes"], size_label)
    yield "scale-vms", draw("Many heaps of ebbtide's in one process",
                            f"Each with 64 KB of live blocks. {flat}", counts, data["heaps"],
                            "{:,g}".format)


def program_pictures(data):
    """Speed and memory of whole programs on each allocator, as multiples of the first one's."""
    runs = {}
    for run in data["runs"]:
        # blocks-N replace blocks, and are no programs.
        if not run["program"].startswith("blocks-"):
            runs.setdefault(run["program"], {})[run["allocator"]] = run
    if not runs:
        return
    base, *names = next(iter(runs.values()))
    reference = "LuaJIT's own allocator" if base == "built-in" else base

    def ratios(over, under):
        return None if None in over + under else [a / b for a, b in zip(over, under)]

    def draw(title, subtitle, key, is_speed=False):
        rows = []
        for program, on in runs.items():
            pairs = [(on[base][key], on[name][key]) for name in names]
            rows.append((program, [ratios(*(pair if is_speed else pair[::-1])) for pair in pairs]))
        range_note = f"Dots are medians. The line is {names[0]}'s range over the rounds."
        return draw_ratios(title, subtitle, [range_note, origin(data)], base, names, rows)

    yield "speed", draw(
        "Speed of whole programs on LuaJIT",
        f"Times as fast as on {reference}, by CPU time. Right is better.", "time", True)
    yield "peak", draw(
        "Memory of whole programs on LuaJIT",
        f"Peak RSS against that on {reference}. Left is better.", "rss_peak_bytes")
    yield "left", draw(
        "Memory that stays when all was dropped",
        f"PSS after each allocator's own purge, against that on {reference}. Left is better.",
        "pss_purged_bytes")


def origin(data):
    return f"{data['machine']}. {data['command']}"


def main(arguments):
    if len(arguments) not in (1, 2):
        sys.exit(__doc__)
    path = Path(arguments[0])
    folder = Path(arguments[1]) if arguments[1:] else path.parent
    data = json.loads(path.read_text(encoding="utf-8"))
    if "runs" in data:
        pictures = program_pictures(data)
    elif "sizes" in data:
        pictures = scale_pictures(data)
    elif "curves" in data:
        pictures = [(path.stem, draw_curves(data))]
    else:
        sys.exit(f"plot.py: no results in {path}")
    for name, svg in pictures:
        picture = folder / f"{name}.svg"
        picture.write_text(svg, encoding="utf-8")
        print(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
