"""The command line of lab/measure/by_position.py."""

from experiments.lab.measure.by_position import main

if __name__ == "__main__":
    main()
