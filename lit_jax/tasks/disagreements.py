"""Examples that a student takes for another class than its teacher does."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data.dataset import Split
from lit_jax.data.preprocess import Preprocess
from lit_jax.data.texts import characters
from lit_jax.errors import shortened
from lit_jax.training.task import Answers, Sheet

_MOST = 12  # examples that are kept
_LETTERS = 240  # of a text
_DIGITS = 4  # of a probability


class Disagreements(NamedTuple):
  """What a row of the results has of them, and their images.

  Attributes:
    details: 'disagreement_counts' are the numbers of examples: 'examples' that
      were scored, 'all' on which the two disagree, and of these
      'teacher_right' and 'student_right'. 'disagreements' are those of which
      the teacher is surest, 12 at most: each with its 'index' in the split, its
      'label', the classes 'teacher' and 'student' with the probability that
      each gives its own, and of texts the 'text'.
    sheet: their images in the same order, one a row; None where they have none.
  """

  details: dict[str, Any]
  sheet: Sheet | None


def find(
  split: Split,
  preprocess: Preprocess,
  teacher: Answers,
  student: Answers,
  most: int = _MOST,
) -> Disagreements:
  """The examples of a split that teacher and student disagree on.

  Those of which the teacher is surest come first, and of equally sure ones, to
  four digits, the first in the split: what they are does not hang on rounding.

  Args:
    split: whose labels are int [N].
    preprocess: of the data set; tells images and texts.
    teacher: its answers, of all N.
    student: its answers, of all N.
    most: examples that are kept.
  """
  labels = np.asarray(split.labels[:])
  rows = np.flatnonzero(teacher.classes != student.classes)
  sure = np.round(teacher.probabilities[rows].astype(np.float64), _DIGITS)
  shown = rows[np.argsort(-sure, kind='stable')][:most]
  counts = {
    'examples': len(labels),
    'all': len(rows),
    'teacher_right': int((teacher.classes[rows] == labels[rows]).sum()),
    'student_right': int((student.classes[rows] == labels[rows]).sum()),
  }
  examples = [
    {
      'index': int(i),
      'label': int(labels[i]),
      'teacher': int(teacher.classes[i]),
      'student': int(student.classes[i]),
      'teacher_probability': _rounded(teacher.probabilities[i]),
      'student_probability': _rounded(student.probabilities[i]),
    }
    for i in shown
  ]
  kind = preprocess.facts().get('kind')
  inputs = split.inputs[shown] if kind in ('images', 'characters') else None
  if kind == 'characters':
    examples = _with_texts(examples, np.asarray(inputs))
  images = _images(np.asarray(inputs)) if kind == 'images' else None
  return Disagreements(
    {'disagreements': examples, 'disagreement_counts': counts},
    Sheet(images, ('image',)) if images is not None and len(images) else None,
  )


def _rounded(probability) -> float:
  return round(float(probability), _DIGITS)


def _with_texts(examples: Sequence[dict[str, Any]], ids: np.ndarray):
  texts = characters.decode(ids) if len(ids) else []
  return [
    example | {'text': shortened(' '.join(text.split()), _LETTERS)}
    for example, text in zip(examples, texts, strict=True)
  ]


def _images(pixels: np.ndarray) -> np.ndarray | None:
  """uint8 [n, h, w, 1 or 3] → [n, 1, h, w, 3]; None of other channels."""
  if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
    return None
  return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))[:, None]
