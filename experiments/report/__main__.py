"""The command line."""

from experiments.report.gather import main

if __name__ == "__main__":
    main()
