"""Lengths never seen in training: which positions read them, task by task."""

from experiments.lab.exports import lazy_exports

__getattr__ = lazy_exports(
    __name__, arms=("arm_overrides",), accuracy=("Accuracy", "accuracies", "fitted"), published=("LENGTHS", "PUBLISHED")
)
