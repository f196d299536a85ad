"""What ops/RUNBOOK.md and README.md tell people to type, and to look for, is there."""

import pathlib
import re
import subprocess

import pytest

from harness import BIN, clean_environment, get, until

PROJECT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = ["ops/RUNBOOK.md", "README.md"]
SHELL = re.compile(r"```(?:sh|shell|bash)\n(.*?)```", re.S)
INLINE = re.compile(r"`([^`\n]+)`")
METRIC = re.compile(r"\bsigmacast_[a-z_]+\b")
# These are there only with [curve], tls_* or a limit that was met.
CONDITIONAL = re.compile(r"sigmacast_edge_(tls|certificate|limited)_|sigmacast_broker_(denied|handshakes|forbidden)")


def text_of(document):
    return (PROJECT / document).read_text()


def commands(document):
    """Each command, as a list of words, of the code in a document."""
    text = text_of(document)
    lines = [line for block in SHELL.findall(text) for line in block.splitlines()]
    lines += INLINE.findall(SHELL.sub("", text))
    found = []
    for line in lines:
        for part in re.split(r"\s[|;]\s|&&", line.split(" #")[0]):
            words = part.split()
            while words and re.fullmatch(r"[A-Z_]+=\S*|nice|timeout|\d+", words[0]):
                words.pop(0)
            if words and re.fullmatch(r"(.*/)?sigmacast(-(engine|broker|producer|edge))?|(\./)?ops/(run|test|setup|format)", words[0]):
                found.append(words)
    return found


def help_of(*command):
    done = subprocess.run([str(part) for part in command] + ["--help"], capture_output=True, text=True, timeout=60,
                          env=clean_environment(), stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_option_that_is_named_exists(document):
    known = {}
    found = commands(document)
    assert len(found) > 5
    for words in found:
        name = words[0].rsplit("/", 1)[-1]
        command = [PROJECT / "ops" / name if "ops/" in words[0] else BIN / name]
        if name == "sigmacast" and len(words) > 1:
            if not words[1].startswith("-"):
                command.append(words[1].rstrip(",.;:"))
                assert re.search(rf"^  {re.escape(command[1])} ", help_of(command[0]), re.M), f"{document}: {' '.join(words)}"
        text = known.setdefault(tuple(command), None) or help_of(*command)
        known[tuple(command)] = text
        for word in words[1:]:
            option = re.match(r"--[a-z][a-z-]*", word)
            if option and not (name == "sigmacast" and len(command) == 1):
                assert re.search(rf"{re.escape(option[0])}\b", text), f"{document}: {' '.join(words)}: no {option[0]}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_script_and_file_that_is_linked_exists(document):
    here = (PROJECT / document).parent
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(document)):
        assert target.startswith("http") or (here / target).exists(), f"{document}: {target}"
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
               for title in re.findall(r"^#+ (.+)$", text_of(document), re.M)}
    for anchor in re.findall(r"\]\(#([^)]+)\)", text_of(document)):
        assert anchor in anchors, f"{document}: #{anchor}"


@pytest.fixture(scope="module")
def metrics(shared):
    until(lambda: "sigmacast_edge_source_live" in str(shared.edge.metrics()), what="the first answers are known")
    return {name.split("{")[0] for program in shared.programs for name in program.metrics()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_metric_that_is_named_is_in_metrics(document, shared, metrics):
    sources = "".join(path.read_text() for folder in ("common", "producer", "broker", "edge")
                      for path in (PROJECT / folder).glob("*.cc"))
    for name in set(METRIC.findall(text_of(document))):
        there = name in metrics or (CONDITIONAL.search(name) and f'"{name}"' in sources)
        assert there, f"{document}: {name} is in no program's /metrics"


def test_every_address_of_the_runbook_answers(shared):
    paths = {"edge": set(), "broker": set(), "producer": set()}
    for port, path in re.findall(r"127\.0\.0\.1:(12080|12091|12092)(/[\w/-]*)", text_of("ops/RUNBOOK.md")):
        paths[{"12080": "edge", "12091": "producer", "12092": "broker"}[port]].add(path)
    assert paths["edge"] and paths["broker"]
    for name, of_program in paths.items():
        for path in of_program - {"/ws"}:
            assert get(getattr(shared, name).port, path)[0] == 200, f"{name}{path}"
