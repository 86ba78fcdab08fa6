"""The command line of lab/measure/perplexity.py."""

from experiments.lab.measure.perplexity import main

if __name__ == "__main__":
    main()
