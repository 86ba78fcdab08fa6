"""How far does a trained window stretch, by which extension, with how much fine-tuning?

    python -m experiments.extend
    python -m experiments.extend experiment=demo

study.py says how the arms are trained and measured.
"""

from conf.compose import command_line


def run(values: dict, overrides: list[str]) -> None:
    """Import what the command needs once it is more than --help, and run it."""
    from experiments.extend.study import run_command

    run_command(values, overrides)


if __name__ == "__main__":
    command_line("extend_study", run)
