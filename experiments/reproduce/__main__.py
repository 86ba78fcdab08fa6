"""The command line."""

from experiments.reproduce.verdicts import main

if __name__ == "__main__":
    main()
