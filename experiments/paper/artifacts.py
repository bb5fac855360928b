"""What the paper's tables and figures are made of, and what they claim.

Numbers are of Koratana et al., 'LIT: Learned Intermediate Representation
Training for Model Compression' (CIFAR-10, test accuracy), means of three runs.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments import published
from lit_jax.errors import choose


class Entry(NamedTuple):
  """A row of a table, or a point of a figure.

  Attributes:
    label: how it is called.
    method: of the configuration.
    settings: keys of the configuration, where they are not the recipe's.
    student: which of the scale's students, from the shallowest on; -1 is one as
      deep as the teacher.
    published: the paper's accuracy, and its standard deviation if it has one.
    x: its place along a figure's axis; None in tables.
    series: the line of a figure that it is on.
  """

  label: str
  method: str
  settings: Mapping[str, Any]
  student: int = 0
  published: tuple[float, ...] = ()
  x: float | None = None
  series: str = ''


class Claim(NamedTuple):
  """That the runs of one entry are better than those of another."""

  better: str
  than: str


class Artifact(NamedTuple):
  """A table or figure.

  Attributes:
    title: what it shows.
    family: of its networks.
    entries: what it is made of.
    claims: what it is printed for.
    axis: of a figure.
  """

  title: str
  family: str
  entries: tuple[Entry, ...]
  claims: tuple[Claim, ...]
  axis: str = ''


# Of table 3, teacher and student by their titles.
_PAIRS = {
  'resnet': ('resnet-110', 'resnet-20'),
  'resnext': ('resnext-110 (32x4d)', 'resnext-20 (32x4d)'),
}


def _table3(family):
  words = {
    'lit': 'LIT',
    'kd': 'KD',
    'one_ir': 'one IR, with the teacher as input',
    'fitnets': 'one IR, without (FitNets)',
    'several_irs': 'several IRs, without',
  }
  pair = _PAIRS[family]
  accuracies = published.accuracies('cifar10', *pair, words)
  entries = tuple(
    Entry(words[method], method, {}, published=(accuracies[method],))
    for method in words
  )
  others = [entry.label for entry in entries[1:]]
  return Artifact(
    f'Table 3: what of LIT makes it better, {family}',
    family,
    entries,
    tuple(Claim('LIT', other) for other in others),
  )


def _table4(family):
  entries = tuple(
    Entry(loss, 'lit', {'lit.ir_loss': loss}, published=numbers)
    for loss, numbers in published.IR_LOSSES[family].items()
  )
  claims = Claim('l2', 'smooth_l1'), Claim('l1', 'smooth_l1')
  return Artifact(
    f'Table 4: losses of the IRs, {family}', family, entries, claims
  )


def _figure2(family):
  entries = tuple(
    Entry(f'{title}, student {i + 1}', method, {}, i, x=i, series=title)
    for title, method in (('scratch', 'scratch'), ('KD', 'kd'), ('LIT', 'lit'))
    for i in range(4)
  )
  claims = tuple(
    Claim(f'LIT, student {i + 1}', f'{other}, student {i + 1}')
    for i in range(4)
    for other in ('KD', 'scratch')
  )
  return Artifact(
    f'Figure 2: accuracy by depth, CIFAR-10, {family}',
    family,
    entries,
    claims,
    'depth',
  )


def _figure7(family):
  entries = tuple(
    Entry(f'α {alpha}', 'kd', {'kd.alpha': alpha}, x=alpha, series='KD')
    for alpha in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
  )
  return Artifact(
    f'Figure 7: the weight of the labels in KD, {family}',
    family,
    entries,
    (Claim('α 0.95', 'α 0.5'),),
    'α',
  )


def _figure8(family):
  entries = tuple(
    Entry(f'β {beta}', 'lit', {'lit.beta': beta}, x=beta, series='LIT')
    for beta in (0.0, 0.25, 0.5, 0.75, 1.0)
  )
  return Artifact(
    f'Figure 8: the weight of KD in LIT, {family}',
    family,
    entries,
    tuple(
      Claim(f'β {beta}', f'β {end}')
      for beta in (0.25, 0.5, 0.75)
      for end in (1.0, 0.0)
    ),
    'β',
  )


# Each half of an artifact by its name.
ARTIFACTS = {
  'table3': tuple(map(_table3, _PAIRS)),
  'table4': tuple(map(_table4, _PAIRS)),
  'fig2': tuple(map(_figure2, _PAIRS)),
  'fig7': tuple(map(_figure7, _PAIRS)),
  'fig8': tuple(map(_figure8, _PAIRS)),
}


def find(name: str) -> dict[str, tuple[Artifact, ...]]:
  """The artifacts of that name, in halves by family; 'all' are all.

  Raises:
    UserError: there is none.
  """
  if name == 'all':
    return ARTIFACTS
  return {name: ARTIFACTS[choose('artifact', name, [*ARTIFACTS, 'all'])]}
