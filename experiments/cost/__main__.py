"""The command line."""

from experiments.cost.growth import main

if __name__ == "__main__":
    main()
