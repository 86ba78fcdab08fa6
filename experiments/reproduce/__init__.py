"""Papers held to their word: claims with rules written before their runs, and the verdicts."""

from experiments.lab.exports import lazy_exports

__getattr__ = lazy_exports(__name__, claims=("CLAIMS",), gate=("describe_gate",), page=("blocks", "cell", "size"))
