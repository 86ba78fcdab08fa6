"""What came out of every claim? One page to look at, and a table.

    python -m experiments.report

It reads what experiments.reproduce left, and measures nothing.
"""

from experiments.report.page import main

if __name__ == "__main__":
    main()
