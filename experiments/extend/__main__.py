"""The command line."""

from experiments.extend.study import main

if __name__ == "__main__":
    main()
