"""How does the cost of a training step grow with window, width, layers, batch and devices?

    python -m experiments.cost

growth.py says what is measured and how the laws are fitted.
"""

from experiments.cost.growth import main

if __name__ == "__main__":
    main()
