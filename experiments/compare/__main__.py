"""The command line."""

from experiments.compare.table import main

if __name__ == "__main__":
    main()
