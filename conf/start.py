"""How a program starts, before it imports what takes a moment, and after it has."""

import atexit
import gc
import signal

from conf.signals import end_at_once, handled


def begin() -> None:
    """From here on a signal ends the program by a sentence and its status, and no garbage is looked for.

    Modules are made of a million objects, through which the collector would go again and again while they are imported:
    a fifth of that time, and a second at the end of the program.
    """
    for number in handled():
        signal.signal(number, end_at_once)
    gc.disable()
    atexit.register(gc.freeze)


def imported() -> None:
    """From here on garbage is looked for again, but never among what there is now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
