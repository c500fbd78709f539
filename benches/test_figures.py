"""figures.py on a small sample of results."""

import contextlib
import io
import json
import re
import tempfile
import unittest
from pathlib import Path

import figures

MB = 2**20


def run_of(program, allocator, times, peak):
    """A program's run on an allocator, as programs.json has it."""
    memory = {
        key: [value * MB] * len(times)
        for key, value in (
            ("rss_peak_bytes", peak), ("rss_dropped_bytes", peak - 1), ("rss_purged_bytes", 1)
        )
    }
    return {"program": program, "allocator": allocator, "time": times, **memory}


RUNS = [
    run_of(program, allocator, times, peak)
    for program in ("scatter", "service", "blocks-1m")
    for allocator, times, peak in (
        ("built-in", [4.0, 2.0], 40), ("ebbtide", [2.0, 1.0], 20),
        ("jemalloc", [1.0, 0.5], 10), ("libc", [6.0, 3.0], 80),
    )
]
SEEN = {
    "service, PSS idle after peak 3, reclaimed": (79.44, 21.66, "MB"),
    "service, PSS over the start, all dropped": (71.3, 0.5, "MB"),
    "scatter, RSS at the peak": (421.0, 379.1, "MB"),
    "scatter, bytes of metadata in a hundred of heap": (0, 1.56, ""),
    "service, speed of the first reclaim": (0, 8.7, "GB/s"),
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def write_results(target):
    """What the benches leave."""
    of = [
        {"what": what, "base": base, "seen": seen, "unit": unit}
        for what, (base, seen, unit) in SEEN.items()
    ]
    about = {"machine": "a machine", "versions": "LuaJIT 2.1, ebbtide 0.1.0"}
    write(target / "bench/programs.json", {**about, "runs": RUNS, "figures": of})
    write(target / "bench/programs.md", "| program |\n|---|\n| scatter |\n")
    scale = {"what": "filling", "seen": 1.254, "unit": ""}
    write(target / "bench/scale.json", {"figures": [scale]})
    for name in ("pauses", "breathing", "doors"):
        write(target / f"bench/{name}.txt", f"{name}: reached\n\n")
    write(target / "bench/bench.measured", "abc1234 2026-01-02\n")
    write(target / "bench/bench-breathing.measured", "def5678-dirty 2026-01-03\n")
    for allocator, ns in (("ebbtide", 1500.0), ("libc", 3000.0)):
        for size in ("16", "8"):
            bench = {"group_id": "pairs", "function_id": allocator, "value_str": size}
            folder = target / f"criterion/pairs/{allocator}/{size}/new"
            write(folder / "benchmark.json", bench)
            write(folder / "estimates.json", {"median": {"point_estimate": ns}})


def page_of(names):
    blocks = (f"<!-- figures: {name} -->\nold\n<!-- end of figures -->\n" for name in names)
    return "Before.\n\n" + "\nBetween.\n\n".join(blocks) + "\nAfter.\n"


class Figures(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.target = self.root / "target"
        write_results(self.target)
        names = list(figures.BLOCKS)
        for page, some in zip(figures.PAGES, (names[:1], names[1:-1], names[-1:])):
            write(self.root / page, page_of(some))

    def run_main(self, *arguments):
        """The exit status, what was printed, and what was said of errors."""
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                status = figures.main(list(arguments), self.root)
            except SystemExit as end:
                status = end.code
        return status, out.getvalue(), errors.getvalue()

    def page(self, name):
        return (self.root / name).read_text()

    def block(self, name):
        text = "".join(self.page(page) for page in figures.PAGES)
        return re.search(rf"<!-- figures: {name} -->\n(.*?)<!-- end", text, re.S)[1]

    def change(self, page, old, new):
        text = self.page(page)
        self.assertIn(old, text)
        write(self.root / page, text.replace(old, new, 1))

    def test_results_are_written_between_the_markers(self):
        status, out, _ = self.run_main(str(self.target))
        self.assertEqual((status, out.count("written: ")), (0, len(figures.PAGES)))
        for page in figures.PAGES:
            text = self.page(page)
            self.assertTrue(text.startswith("Before.\n\n<!-- figures: ") and "old" not in text)
            self.assertTrue(text.endswith("\n\nAfter.\n"))
        self.assertEqual(self.page(figures.PAGES[1]).count("\n\nBetween.\n\n"), 8)
        # Nothing changes when the results are the same.
        self.assertEqual(self.run_main(str(self.target)), (0, "", ""))

    def test_each_block_says_what_was_measured(self):
        self.run_main(str(self.target))
        summary = self.block("summary")
        self.assertIn("(PSS) | 79.4 MB | 21.7 MB |", summary)
        self.assertIn("CPU time of 2 programs, geometric mean | 1 | 0.50 |", summary)
        self.assertIn("peak RSS of these programs, geometric mean | 1 | 0.50 |", summary)
        self.assertIn("\n\nMeasured at commit abc1234, 2026-01-02, on a machine.\n", summary)
        about = self.block("about")
        self.assertIn("on a machine, with LuaJIT 2.1, ebbtide 0.1.0.", about)
        self.assertIn("`make bench` at commit abc1234, 2026-01-02;", about)
        self.assertIn("`make bench-breathing` at commit def5678-dirty, 2026-01-03.", about)
        means = self.block("means")
        self.assertIn("| LuaJIT's own | 2.00 | 0.50 |", means)
        self.assertIn("| jemalloc | 0.50 | 2.00 |", means)
        self.assertIn("| the C library's | 3.00 | 0.25 |", means)
        self.assertIn("| the best peer of each program | 0.50 | 2.00 |", means)
        self.assertIn("in 2 of 2 programs: scatter 0.50, service 0.50.", self.block("behind"))
        self.assertIn("| scatter, highest RSS of the run | 40.0 MB | 20.0 MB |", self.block("memory"))
        self.assertIn("| filling | 1.25 |", self.block("scale"))
        self.assertEqual(self.block("pauses"), "```text\npauses: reached\n```\n")
        rows = [line for line in self.block("heap").splitlines() if line.startswith("| pairs")]
        # Numbers by their value, and the unit by what ebbtide takes.
        self.assertEqual(rows[0], "| pairs, 8, µs | 1.5 | – | – | – | – | 3.0 |")
        self.assertTrue(rows[1].startswith("| pairs, 16, µs |"))

    def test_a_change_by_hand_is_seen(self):
        self.run_main(str(self.target))
        self.assertEqual(self.run_main("--check"), (0, "", ""))
        # Prose is anybody's.
        self.change("docs/performance.md", "Between.", "Meanwhile.")
        self.assertEqual(self.run_main("--check"), (0, "", ""))
        for page, old, new, said in (
            ("README.md", "21.7", "12.7", "README.md: the figures 'summary' were changed by hand"),
            ("README.md", "| 0.50 |\n", "| 0.50 |\n| more | 1 | 2 |\n", "'summary' were changed"),
            ("benches/README.md", "<!-- end of figures", "<!-- end", "without its other end"),
            ("benches/README.md", "figures: heap", "figures: hoop", "no figures are called 'hoop'"),
            ("benches/README.md", "figures: heap", "figures: hoop", "'heap' stand in 0 places"),
            ("docs/performance.md", "figures: means", "figures: scale", "'scale' stand in 2 places"),
        ):
            before = self.page(page)
            self.change(page, old, new)
            status, _, errors = self.run_main("--check")
            self.assertEqual(status, 1)
            self.assertIn(said, errors)
            write(self.root / page, before)
        # Blocks that nothing has written yet.
        self.change("README.md", re.search("figures(: \\w+) -->\n\n", self.page("README.md"))[1], "")
        self.assertEqual(self.run_main("--check")[0], 1)

    def test_what_is_missing_is_named(self):
        (self.target / "bench/scale.json").unlink()
        before = [self.page(page) for page in figures.PAGES]
        status, _, _ = self.run_main(str(self.target))
        self.assertRegex(status, "no .*scale.json: run `make bench`")
        self.assertEqual([self.page(page) for page in figures.PAGES], before)
        write_results(self.target)
        self.change("README.md", "figures: summary", "figures: summery")
        self.assertRegex(self.run_main(str(self.target))[0], "no figures are called 'summery'")
        self.assertRegex(self.run_main()[0], "figures.py TARGET")


if __name__ == "__main__":
    unittest.main()
