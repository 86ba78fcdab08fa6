"""What came out of every claim? One page to look at, and a table.

    python -m experiments.report

It reads what experiments.reproduce left, and measures nothing.
"""

from conf.compose import command_line
from experiments.report.page import run_command

if __name__ == "__main__":
    command_line("report", run_command)
