"""Papers held to their word: claims with rules written before their runs, and the verdicts."""

from experiments.lab.face import hand_out

__getattr__ = hand_out(__name__, claims=("CLAIMS",), gate=("describe_gate",), page=("blocks", "cell", "size"))
