"""The command line of lab/measure/passkey.py."""

from experiments.lab.measure.passkey import main

if __name__ == "__main__":
    main()
