"""Which positional schemes answer questions longer than any in training?

    python -m experiments.tasks
    python -m experiments.tasks tasks=[sort] schemes=[none,rope] seeds=1

study.py says how the models are trained and measured.
"""

from conf.compose import command_line
from experiments.tasks.study import run_command

if __name__ == "__main__":
    command_line("tasks", run_command)
