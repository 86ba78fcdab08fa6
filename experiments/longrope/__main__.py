"""The command line."""

from experiments.longrope.search import main

if __name__ == "__main__":
    main()
