"""A guard against a slower hot path: what a checkout costs in PidPool, as a share of what it costs in QueuePool.

    python benchmarks/guard.py [--limit 0.36] [--timed]

Where there is valgrind, instructions are counted, which a busy machine does not change: under callgrind a process
checks out and in, once more often with the one pool and once more often with the other; the difference to a third run
is what the checkouts cost. That takes one or two minutes. Where there is none, or with --timed, `checkout.py` compares
times in turn, and a margin is added to the limit.

Exit code: 0 within the limit, 1 above it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_MARGIN = 1.25  # The ratio of times is larger than that of instructions, and differs from machine to machine.
_WARM_UP = 500  # checkouts that every run makes with either pool: CPython specialises code on its way
_COUNTED = 5_000


def main() -> int:
    """Count or measure, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=0.36, help="the largest share that is accepted (default 0.36)")
    parser.add_argument("--timed", action="store_true", help="measure times although there is valgrind")
    parser.add_argument("--check-out", nargs=2, type=int, metavar=("QUEUEPOOL", "PIDPOOL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.check_out:
        check_out(*arguments.check_out)
        return 0
    valgrind = shutil.which("valgrind")
    if arguments.timed or valgrind is None:
        limit = arguments.limit * _MARGIN
        command = [sys.executable, "-m", "benchmarks.checkout", "--fail-above", f"{limit:.3f}"]
        return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603 - this interpreter, our module
    base = instructions(valgrind, 0, 0)
    queuepool = (instructions(valgrind, _COUNTED, 0) - base) / _COUNTED
    pidpool = (instructions(valgrind, 0, _COUNTED) - base) / _COUNTED
    ratio = pidpool / queuepool
    print(
        f"instructions a checkout: PidPool {pidpool:,.0f}, QueuePool {queuepool:,.0f}: {ratio:.3f}, "
        f"and at most {arguments.limit:g} is accepted"
    )
    return 1 if ratio > arguments.limit else 0


def instructions(valgrind: str, queuepool: int, pidpool: int) -> int:
    """Return how many instructions a process takes that makes so many checkouts."""
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    command += ["-m", "benchmarks.guard", "--check-out", str(queuepool), str(pidpool)]
    # The same hashes in each run, so that dictionaries collide equally often.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(  # noqa: S603 - as above
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or collected is None:
        raise SystemExit(f"valgrind failed with {done.returncode}:\n{done.stderr}")
    return int(collected[1])


def check_out(queuepool: int, pidpool: int) -> None:
    """Make so many checkouts of each pool, beyond those that warm up."""
    from sqlalchemy.pool import QueuePool  # noqa: PLC0415 - who only starts valgrind needs neither

    from benchmarks.checkout import Connection  # noqa: PLC0415
    from pidpool import PidPool  # noqa: PLC0415

    warnings.simplefilter("ignore")  # pidpool does not know this driver
    creator: Any = Connection
    for pool_class, count in ((QueuePool, queuepool), (PidPool, pidpool)):
        connect = pool_class(creator).connect
        for _ in range(_WARM_UP + count):
            connect().close()


if __name__ == "__main__":
    sys.exit(main())
