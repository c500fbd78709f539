#!/usr/bin/env python3
"""Writes the table of test suites in docs/contributing.md from what `make test`, `make test-long`
and `make test-full` have printed: how many tests of a suite each of them ran, and for how long.

    python3 tests/suites.py LOG...      files with the output of one or more of these commands
    python3 tests/suites.py --names     lists each test as "SUITE NAME", without running any

Columns of commands that are in no file keep what they have. The words about a suite are kept, too.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/contributing.md"
HEAD = "| suite | what it tests | `make test` | `make test-long` | `make test-full` |"
COLUMNS = {"== tests": 0, "== long tests": 1, "== long and longer tests": 2}

RUNNING = re.compile(r"\s+(?:Running|Executable) (unittests )?(\S+) \((\S+)\)")
RESULT = re.compile(r"test result: .* (\d+) passed; (\d+) failed; .* finished in ([\d.]+)s")


def suite(unit, source, program):
    """The name of a suite, after the line that cargo prints about its program."""
    if unit:
        name = Path(program).name.rsplit("-", 1)[0].replace("_", "-")
        return f"{name} ({source.removesuffix('/main.rs').removesuffix('.rs')})"
    return source.removeprefix("tests/").removesuffix("/main.rs").removesuffix(".rs")


def runs(log):
    """Column, suite, tests and seconds of each run of a suite with a test in it."""
    column, name = None, None
    for line in log.splitlines():
        for head, at in COLUMNS.items():
            if line == head or line.startswith(head + ":"):
                column = at
        if match := RUNNING.match(line):
            name = suite(*match.groups())
        elif (match := RESULT.match(line)) and None not in (column, name):
            count = int(match[1]) + int(match[2])
            if count:
                yield column, name, count, float(match[3])
            name = None


def rows(text):
    """What the table has: the words and the three cells of each suite."""
    lines = text.split(HEAD + "\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {name: [words, *columns] for name, words, *columns in cells}


def write(logs):
    text = PAGE.read_text()
    table = rows(text)
    for log in logs:
        found = list(runs(log))
        for column in {column for column, *_ in found}:
            for row in table.values():
                row[1 + column] = ""
        for column, name, count, seconds in found:
            tests = "1 test" if count == 1 else f"{count} tests"
            row = table.setdefault(name, ["", "", "", ""])
            row[1 + column] = f"{tests}, {max(1, round(seconds))} s"
    lines = [HEAD, "|---|---|---|---|---|"]
    lines += [re.sub(" +", " ", f"| {' | '.join([name, *row])} |")
              for name, row in table.items() if any(row[1:])]
    before, after = text.split(HEAD + "\n", 1)
    PAGE.write_text(before + "\n".join(lines) + "\n\n" + after.split("\n\n", 1)[1])


def names():
    cargo = ["cargo", "test", "--workspace"]
    said = subprocess.run([*cargo, "--no-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in said.stderr.splitlines():
        if match := RUNNING.match(line):
            listed = subprocess.run([ROOT / match[3], "--list"], capture_output=True, text=True)
            for test in re.findall(r"^(.*): test$", listed.stdout, re.M):
                print(suite(*match.groups()), test)


if sys.argv[1:] == ["--names"]:
    names()
elif sys.argv[1:]:
    write(Path(name).read_text() for name in sys.argv[1:])
else:
    sys.exit(__doc__)
