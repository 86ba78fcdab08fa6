"""Does stretching a window stage by stage, as LongRoPE does, beat going there directly?

    python -m experiments.progressive checkpoint=runs/demo/rope-pico-s1 factors=[4,16] steps=[100,0]

stages.py says what happens at each stage.
"""

from conf.compose import command_line
from experiments.progressive.stages import run_command

if __name__ == "__main__":
    command_line("progressive", run_command)
