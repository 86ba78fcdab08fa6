"""Do the papers' claims hold here?

    python -m experiments.reproduce claim=bound
    python -m experiments.reproduce claim=all scale=pico launcher=joblib

A claim is a file in claims/; its rule was written before its runs.
"""

from conf.compose import command_line
from experiments.reproduce.verdicts import run_command

if __name__ == "__main__":
    command_line("reproduce", run_command)
