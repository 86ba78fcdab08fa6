"""How the cost of a training step grows: against window, width, layers, batch and devices."""
