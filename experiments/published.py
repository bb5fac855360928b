"""What the paper reports, to stand beside a run's own numbers.

Koratana et al., 'LIT: Learned Intermediate Representation Training for Model
Compression', table 3: CIFAR10, a 20-deep student of a 110-deep teacher.
"""

from collections.abc import Iterable

from lit_jax.report import Column

# Accuracy by teacher and method, of the student that is named last.
_ACCURACIES = {
  'resnet-110': (
    {
      'lit': 0.9325,
      'kd': 0.9275,
      'one_ir': 0.9274,
      'fitnets': 0.9268,
      'several_irs': 0.9042,
    },
    'resnet-20',
  ),
  'resnext-110 (32x4d)': (
    {
      'lit': 0.9472,
      'kd': 0.9442,
      'one_ir': 0.9421,
      'fitnets': 0.9418,
      'several_irs': 0.9127,
    },
    'resnext-20 (32x4d)',
  ),
}

# To stand right after the accuracy.
COLUMN = Column(
  'published',
  'Published %',
  'percent',
  optional=True,
  narrow='paper',
  below=True,
  quoted=True,
)
NOTE = (
  'Published: Koratana et al., LIT: Learned Intermediate Representation '
  'Training for Model Compression, table 3 (CIFAR10, a 20-deep student of a '
  '110-deep teacher).'
)


def accuracies(
  dataset: str, teacher_title: str, student_title: str, methods: Iterable[str]
) -> dict[str, float]:
  """The paper's test accuracies, 0 to 1, by method.

  Args:
    dataset: name of the data set.
    teacher_title: of the network that teaches (`models.title`).
    student_title: of the network that all these methods train.
    methods: those of the run; what the paper lacks is left out.

  Returns:
    Nothing unless the paper has this data set, teacher and student.
  """
  found, student = _ACCURACIES.get(teacher_title, ({}, ''))
  if dataset != 'cifar10' or student_title != student:
    return {}
  return {method: found[method] for method in methods if method in found}
