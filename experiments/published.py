"""What the paper reports, to stand beside a run's own numbers.

Koratana et al., 'LIT: Learned Intermediate Representation Training for Model
Compression'. Tables 3 and 4: CIFAR10, a 20-deep student of a 110-deep teacher.
Table 2: CelebA, a generator of 10 layers of one of 18.
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

# Table 4: accuracy and standard deviation, by the student's family and loss.
IR_LOSSES = {
  'resnet': {
    'l2': (0.9320, 0.0004),
    'l1': (0.9319, 0.0005),
    'smooth_l1': (0.9302, 0.0006),
  },
  'resnext': {
    'l2': (0.9463, 0.0007),
    'l1': (0.9462, 0.0007),
    'smooth_l1': (0.9386, 0.0008),
  },
}

# Table 5: accuracy and standard deviation in fp32 and in mixed precision.
PRECISIONS = {
  'resnet': ((0.9320, 0.0004), (0.9317, 0.0007)),
  'resnext': ((0.9463, 0.0007), (0.9457, 0.0010)),
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


# Inception Score and FID by row, as printed.
_TRANSLATIONS = {
  'teacher': '3.49 / 6.43',
  'lit': '3.56 / 5.84',
  'l2': '3.46 / 6.47',
  'scratch': '3.37 / 6.56',
  'random': '2.63 / 94.00',
  'random_deep': '2.45 / 151.43',
}
TRANSLATIONS_COLUMN = Column(
  'published',
  'Published IS / FID',
  'text',
  optional=True,
  narrow='paper\nIS / FID',
  quoted=True,
)
TRANSLATIONS_NOTE = (
  'Published: Koratana et al., LIT: Learned Intermediate Representation '
  'Training for Model Compression, table 2 (CelebA). Another protocol: these '
  'numbers compare with each other alone, not with those beside them.'
)


def translations(dataset: str, teacher_title: str) -> dict[str, str]:
  """The paper's Inception Score and FID, in words, by row; {} without any.

  Args:
    dataset: name of the data set.
    teacher_title: of the network that teaches (`models.title`).
  """
  found = dataset == 'celeba' and teacher_title == 'stargan-18'
  return dict(_TRANSLATIONS) if found else {}


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
