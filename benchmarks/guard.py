"""A guard against a slower hot path: what a checkout costs in PidPool, as a share of what it costs in QueuePool.

    python -m benchmarks.guard [--limit RATIO] [--timed]

Where there is valgrind, instructions are counted, which a busy machine does not change: under callgrind a process
checks out and in with the one pool and then with the other, and callgrind tells the parts apart. That takes a quarter
of a minute. Where there is none, or with --timed, `checkout.py` compares times in turn, and a margin is added to the
limit.

Exit code: 0 within the limit, 1 above it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIMITS = {"2.0": 0.27, "2.1": 0.24}
"""SQLAlchemy's series -> the largest share that is accepted. Later series are held to the last limit."""

_MARGIN = 1.5  # The ratio of times is larger than that of instructions, and differs from machine to machine.
_WARM_UP = 500  # checkouts that every run makes with either pool: CPython specialises code on its way
_COUNTED = 2_000
_MARK = "getppid"  # callgrind ends a part where this function of the C library is called: nothing else here calls it
_ROOT = Path(__file__).parents[1]


def main() -> int:
    """Count or measure, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=limit(), help="the largest share accepted (default %(default)s)")
    parser.add_argument("--timed", action="store_true", help="measure times although there is valgrind")
    parser.add_argument("--rounds", type=int, default=101, help="of measuring times (default %(default)s)")
    parser.add_argument("--check-out", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.check_out:
        check_out()
        return 0
    valgrind = shutil.which("valgrind")
    if arguments.timed or valgrind is None:
        most = arguments.limit * _MARGIN
        why = "as told" if arguments.timed else "there is no valgrind to count instructions with"
        print(f"Comparing times ({why}); at most {arguments.limit:g} x {_MARGIN} is accepted.", flush=True)
        command = ["-m", "benchmarks.checkout", "--rounds", str(arguments.rounds), "--fail-above", f"{most:.3f}"]
        return subprocess.run([sys.executable, *command], cwd=_ROOT, check=False).returncode  # noqa: S603 - our module
    queuepool, pidpool = instructions(valgrind)
    ratio = pidpool / queuepool
    print(
        f"Instructions a checkout: PidPool {pidpool:,.0f}, QueuePool {queuepool:,.0f}: {ratio:.3f}, "
        f"and at most {arguments.limit:g} is accepted (SQLAlchemy {version('sqlalchemy')})."
    )
    return 1 if ratio > arguments.limit else 0


def limit() -> float:
    """Return the limit for the SQLAlchemy that is installed."""
    series = ".".join(version("sqlalchemy").split(".")[:2])
    return LIMITS.get(series, LIMITS[max(LIMITS)])


def instructions(valgrind: str) -> tuple[float, float]:
    """Return how many instructions a checkout takes in QueuePool, and in PidPool."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "profile")
        command = [valgrind, "--tool=callgrind", f"--dump-before={_MARK}", f"--callgrind-out-file={profile}"]
        command += [sys.executable, "-m", "benchmarks.guard", "--check-out"]
        # The same hashes in each run, so that dictionaries collide equally often.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(  # noqa: S603 - as above
            command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
        )
        # The first part is everything before, the last (without a number) everything after.
        parts = [profile.with_suffix(f".{part}") for part in (2, 3)]
        if done.returncode != 0 or not all(part.exists() for part in parts):
            raise SystemExit(f"valgrind failed with {done.returncode}:\n{done.stderr}")
        queuepool, pidpool = (_total(part) / _COUNTED for part in parts)
    return queuepool, pidpool


def _total(part: Path) -> int:
    found = re.search(r"^totals: (\d+)$", part.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"callgrind wrote no total into {part.name}")
    return int(found[1])


def check_out() -> None:
    """Make the checkouts that are counted, with marks between them."""
    from sqlalchemy.pool import QueuePool  # noqa: PLC0415 - who only starts valgrind needs neither

    from benchmarks.checkout import Connection  # noqa: PLC0415
    from pidpool import PidPool  # noqa: PLC0415

    warnings.simplefilter("ignore")  # pidpool does not know this driver
    creator: Any = Connection
    ways = [pool_class(creator).connect for pool_class in (QueuePool, PidPool)]
    for connect in ways:
        for _ in range(_WARM_UP):
            connect().close()
    os.getppid()
    for connect in ways:
        for _ in range(_COUNTED):
            connect().close()
        os.getppid()


if __name__ == "__main__":
    sys.exit(main())
