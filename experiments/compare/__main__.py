"""How do runs compare: what differs between them, what they came to, and their curves?

    python -m experiments.compare runs/default/rope-nano-s1 runs/default/alibi-nano-s1

table.py says what a run may be.
"""

from experiments.compare.table import main

if __name__ == "__main__":
    main()
