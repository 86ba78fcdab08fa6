"""The command line."""

from experiments.progressive.stages import main

if __name__ == "__main__":
    main()
