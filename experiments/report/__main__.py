"""The command line."""

from experiments.report.page import main

if __name__ == "__main__":
    main()
