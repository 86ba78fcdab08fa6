"""How far does a trained window stretch, by which extension, with how much fine-tuning?

    python -m experiments.extend
    python -m experiments.extend experiment=demo

study.py says how the arms are trained and measured.
"""

from conf.compose import command_line
from experiments.extend.study import run_command

if __name__ == "__main__":
    command_line("extend_study", run_command)
