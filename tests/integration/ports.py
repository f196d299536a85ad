"""Ports for the programs under test that nobody else takes between the choice and the bind.

They lie below the kernel's range for outgoing connections, and each is claimed by a lock file that this process holds
until it ends, so test programs that run at the same time never choose the same one.
"""

import fcntl
import os
import pathlib
import random
import socket
import tempfile

LOWEST = 13_000  # above the product's own default ports
CLAIMS = pathlib.Path(tempfile.gettempdir()) / f"sigmacast-test-ports-{os.getuid()}"
held = []


def end_of_range():
    try:
        first = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except OSError:
        first = 32_768
    return first if first > LOWEST + 1_000 else 65_535


def claim(port):
    """True when this process alone may use the port from now on."""
    CLAIMS.mkdir(exist_ok=True)
    lock = open(CLAIMS / str(port), "w", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError:
        lock.close()
        return False
    held.append(lock)
    return True


def free_ports(count):
    """`count` ports in a row."""
    for _ in range(1_000):
        first = random.randrange(LOWEST, end_of_range() - count)
        if all(claim(first + i) for i in range(count)):
            return list(range(first, first + count))
    raise RuntimeError(f"no {count} free ports in a row between {LOWEST} and {end_of_range()}")


def free_port():
    return free_ports(1)[0]
