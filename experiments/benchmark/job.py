"""One training run in a fresh process, with the seconds of each part; started by the sweep section.

    python -m experiments.benchmark.job <time it was started> <packages, a comma between them> <overrides of train.py>

The packages are imported one after another before anything else, so that lightning's seconds are those it adds to
torch's. The rest is main() of train.py with its functions wrapped. The last line printed is JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import chain, repeat


class Ledger:
    """Seconds by part; every moment since the start belongs to exactly one part."""

    def __init__(self, began: float, clock: Callable[[], float] = time.time):
        self.last, self.clock = began, clock
        self.seconds: dict[str, float] = {}

    def book(self, part: str) -> None:
        """Add the time since the last booking to this part."""
        now = self.clock()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def around(self, owner, name: str, part: str, *before: str) -> None:
        """Wrap a function so that the time before each call and the time of the call are booked.

        Args:
            part: the part of the call, except what is booked during it.
            before: the parts before the first call, the second, …; the last one serves all further calls.
        """
        work, preceding = getattr(owner, name), chain(before, repeat(before[-1]))

        def booked(*arguments, **keywords):
            self.book(next(preceding))
            try:
                return work(*arguments, **keywords)
            finally:
                self.book(part)

        setattr(owner, name, booked)


AS_A_RUN_DOES = {"lightning": "models.lightning", "wandb": "wandb.apis.public"}


def main() -> None:
    """Run the job and print its parts in the order they came."""
    ledger = Ledger(float(sys.argv[1]))
    ledger.book("starting Python")
    for package in sys.argv[2].split(","):
        import_module(AS_A_RUN_DOES.get(package, package))
        ledger.book(f"importing {package}")
    import conf.schema  # noqa: F401
    import models.restore
    import train
    from models.progress import Recorder

    ledger.book("importing the lab")
    ledger.around(train, "train", "finishing", "composing")
    ledger.around(train, "open_data", "opening the corpus", "run folder, logger")
    ledger.around(models.restore, "make_gpt", "building the model", "opening the corpus")
    ledger.around(Recorder, "on_train_start", "measuring the ceiling", "building the Trainer")
    ledger.around(Recorder, "on_train_batch_end", "recording, validation", "first step", "further steps")
    sys.argv = ["train.py", *sys.argv[3:]]
    train.main()
    ledger.book("finishing")
    print(json.dumps({"seconds": ledger.seconds, "ended": ledger.last}))


if __name__ == "__main__":
    main()
