"""How does the cost of a training step grow with window, width, layers, batch and devices?

    python -m experiments.cost

growth.py says what is measured and how the laws are fitted.
"""

from conf.compose import command_line
from experiments.cost.growth import run_command

if __name__ == "__main__":
    command_line("cost", run_command)
