"""A run that ends with SIGKILL: python killed.py FOLDER."""

import os
import signal
import sys
from pathlib import Path

from dunwu.core.devices import prepare_cpu
from dunwu.core.progress import SilentProgress
from dunwu.lab.grok import run
from dunwu.lab.grok.plan import Plan, members_of

SMALL = Plan(
    task="subtraction",
    modulus=7,
    members=members_of([0, 1], [0.6], [0.5], control=True),
    batch=16,
    width=16,
    heads=2,
    steps=120,
    looks_per_decade=6,
)


def die(look: run.Look) -> None:
    """After step 80."""
    if look.step >= 80:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    prepare_cpu(1)
    run.CHECKPOINT_EVERY_S = 0.0
    run.Run(SMALL, Path(sys.argv[1])).train(SilentProgress(), watch=die)
