"""Do the papers' claims hold here?

    python -m experiments.reproduce claim=bound
    python -m experiments.reproduce claim=all scale=pico launcher=joblib

A claim is a file in claims/; its rule was written before its runs.
"""

from experiments.reproduce.verdicts import main

if __name__ == "__main__":
    main()
