"""The long soak: the whole kill matrix on every broker, and chaos runs for as long as is asked.

    python tests/chaos/soak.py --renders 2000 --minutes 30 --seed 7

PostgreSQL, Redis and RabbitMQ must be there (see tests/services.py). Chaos runs follow each other, each with the next
seed, until the minutes are over; one at least is made. Ends with code 1 at the first run that fails.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MATRICES = ("test_kill_matrix.py", "test_kill_matrix_elsewhere.py")


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--renders", type=int, default=2000, help="pictures of each chaos run")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no further chaos run begins")
    parser.add_argument("--seed", type=int, default=dt.date.today().toordinal(), help="of the first chaos run")
    parser.add_argument("--no-matrix", action="store_true", help="leave out the kill matrix")
    asked = parser.parse_args()
    began, seed = time.monotonic(), asked.seed
    if not asked.no_matrix:
        code = _test(*MATRICES, PORTRAITS_CHAOS_FULL="1")
        if code:
            return code
    while True:
        print(f"chaos run of {asked.renders} renders: PORTRAITS_CHAOS_SEED={seed}", flush=True)
        code = _test("test_chaos_run.py", PORTRAITS_CHAOS_SEED=str(seed), PORTRAITS_CHAOS_RENDERS=str(asked.renders))
        if code:
            print(f"to see it again: --no-matrix --renders {asked.renders} --seed {seed}")
            return code
        seed += 1
        if time.monotonic() - began > 60 * asked.minutes:
            return 0


def _test(*files: str, **environment: str) -> int:
    command = [sys.executable, "-m", "pytest", "--timeout=0", "-q", *(str(HERE / name) for name in files)]
    told = {"CI": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=HERE.parents[1], env={**os.environ, **told}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
