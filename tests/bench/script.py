"""What the measurements that are started by hand begin with:

    import script
    parser = script.parser(__doc__, parts=("others", "memory"))  # BIN and, of a measurement in parts, --only
    parser.add_argument("--pairs", type=int, default=3)
    options = script.options(parser)                             # From here on harness and what needs it can be imported.
    for part in options.only: ...

Importing it makes the modules of this folder and of tests/integration known.
"""

import argparse
import os
import pathlib
import resource
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]


def parser(description, parts=()):
    made = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=description)
    made.add_argument("bin", nargs="?", default=str(HERE.parent.parent / "build" / "release" / "bin"))
    if parts:
        def chosen(text):
            names = text.split(",")
            if wrong := [name for name in names if name not in parts]:
                raise argparse.ArgumentTypeError(f"there is no part {', '.join(wrong)}; there are {', '.join(parts)}")
            return names
        made.add_argument("--only", type=chosen, default=list(parts), help="of " + ",".join(parts))
    return made


def options(parser):
    """What was asked for; the programs are those of its folder, and as many descriptors are allowed as may be."""
    found = parser.parse_args()
    os.environ["SIGMACAST_BIN"] = found.bin
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return found
