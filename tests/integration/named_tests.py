"""Documents name tests as `file_test: name`; whether each row of a table names some, and whether those are there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]


def problem(row):
    """What is wrong with a row of a table of tests, or None."""
    tests = re.findall(r"`(\w+_test): ([^`]+)`", row)
    if not tests:
        return f"no test in {row!r}"
    for file, name in tests:
        if (path := ROOT / f"tests/integration/{file}.py").exists():
            found = re.search(rf"^def {re.escape(name.split('[')[0])}\(", path.read_text(), re.M)
        else:
            suite, case = name.split(".")
            found = re.search(rf"TEST(_F|_P)?\({suite},\s*{case}\)", (ROOT / f"tests/unit/{file}.cc").read_text())
        if not found:
            return f"{file} has no test {name}"
    return None
