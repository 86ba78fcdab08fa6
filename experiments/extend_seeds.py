"""The command line of extend/seeds.py."""

from experiments.extend.seeds import main

if __name__ == "__main__":
    main()
