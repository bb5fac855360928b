"""Accuracies that a confusion matrix tells of."""

import numpy as np


def accuracies(confusion: np.ndarray) -> dict[str, float]:
  """How much of a split is classified rightly.

  Args:
    confusion: [classes, classes], how many examples of each label (row) were
      taken for each class (column).

  Returns:
    'accuracy', the part of all examples that are, 0 to 1; and
    'balanced_accuracy', the mean of that part within each class that occurs.
  """
  right, of_label = np.diag(confusion), confusion.sum(1)
  occurs = of_label > 0
  return {
    'accuracy': float(right.sum() / confusion.sum()),
    'balanced_accuracy': float((right[occurs] / of_label[occurs]).mean()),
  }
