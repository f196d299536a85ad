"""What ops/SECURITY.md says of the programs as they were built and as they run, and that its tests are there."""

import pathlib
import re
import subprocess

import pytest

from harness import BIN
from named_tests import ROOT, problem

PROGRAMS = ["sigmacast-engine", "sigmacast-producer", "sigmacast-broker", "sigmacast-edge", "sigmacast"]


def built_for_release():
    cache = BIN.parent / "CMakeCache.txt"
    return cache.exists() and "CMAKE_BUILD_TYPE:STRING=Release" in cache.read_text()


def readelf(program, *options):
    return subprocess.run(["readelf", "--wide", *options, BIN / program], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not built_for_release(), reason="only what is installed, the release build, is hardened")
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_are_hardened(program):
    dynamic, headers, symbols = readelf(program, "--dynamic"), readelf(program, "--segments"), readelf(program, "--dyn-syms")
    assert re.search(r"FLAGS_1.*NOW", dynamic) and "GNU_RELRO" in headers, "relocations can be written to"
    assert re.search(r"FLAGS_1.*PIE", dynamic), "always at the same address"
    assert not re.search(r"GNU_STACK.*RWE", headers), "the stack can be executed"
    assert "__stack_chk_fail" in symbols, "no stack protector"
    assert "__glibcxx_assert_fail" in symbols, "the library does not check its bounds"


def listening_addresses(pid):
    """The addresses on which a process listens for TCP, in the kernel's hexadecimal."""
    sockets = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.update(re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink())))
        except FileNotFoundError:
            pass  # Closed meanwhile.
    found = []
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.append(fields[1].split(":")[0])
    return found


def test_everything_that_listens_is_on_loopback(make_cluster, engine):
    cluster = make_cluster(engine)
    for program in cluster.programs:
        addresses = listening_addresses(program.process.pid)
        assert addresses, program.name
        for address in addresses:
            assert address in ("0100007F", "00000000000000000000000001000000"), f"{program.name} listens on {address}"


def test_each_test_that_the_audit_names_is_there():
    rows = [line for line in (ROOT / "ops/SECURITY.md").read_text().splitlines()
            if line.startswith("| ") and not line.startswith("| attack")]
    assert len(rows) > 15
    assert [found for row in rows if (found := problem(row))] == []
