"""What the paper's tables and figures are made of, and what they claim.

Numbers are of Koratana et al., 'LIT: Learned Intermediate Representation
Training for Model Compression', means of three runs. Where it draws a figure
and prints no number, there is none here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments import published
from experiments.recipes import Config
from lit_jax.errors import choose

# Whose student it is: of the scale's, from the shallowest on, or one that is as
# deep as the teacher.
AS_DEEP = -1


class Measure(NamedTuple):
  """A score of a row.

  Attributes:
    key: in the row.
    title: with its unit.
    scale: what a value is multiplied by, to be in that unit.
    margin: a difference, in the row's own units, that nobody minds; 0 where
      none is known.
    largest: whether more of it is better.
  """

  key: str
  title: str
  scale: float = 1.0
  margin: float = 0.0
  largest: bool = True


ACCURACY = Measure('accuracy', 'accuracy %', 100.0, 0.005)
_ATTRIBUTES = Measure('attribute_accuracy', 'attributes read right %', 100.0)
_DISTANCE = Measure('attribute_distance', 'attribute distance', largest=False)
MEASURES = ACCURACY, _ATTRIBUTES, _DISTANCE


class Entry(NamedTuple):
  """A row of a table, or a point of a figure.

  Attributes:
    label: how it is called, once in an artifact.
    method: of the configuration; '' is the teacher.
    settings: keys of the configuration, where they are not the recipe's; a
      value that depends on the recipe is a function of it.
    student: which of the scale's students, from the shallowest on; AS_DEEP is
      one as deep as the teacher.
    published: the paper's score, and its standard deviation if it has one.
    x: its place along a figure's axis, where the row does not say it.
    series: the line of a figure that it is on.
    teacher: label of the entry whose student teaches; '' is the teacher.
    start: label of the entry whose student it begins as; '' is fresh values.
  """

  label: str
  method: str
  settings: Mapping[str, Any] = {}
  student: int = 0
  published: tuple[float, ...] = ()
  x: float | None = None
  series: str = ''
  teacher: str = ''
  start: str = ''


ABOVE, EQUAL, NO_LOSS = 'above', 'equal', 'no loss'


class Claim(NamedTuple):
  """What the paper says of two entries.

  Attributes:
    better: label of the first.
    than: label of the second.
    kind: ABOVE, the first is better; EQUAL, the two do not differ; NO_LOSS, the
      first is not worse.
    p: that the paper prints, if any.
    difference: that the paper prints, if any, in the score's own units.
    words: of the paper's claim, where it has more to it than that.
  """

  better: str
  than: str
  kind: str = ABOVE
  p: float | None = None
  difference: float | None = None
  words: str = ''


class Artifact(NamedTuple):
  """A table or figure, of one family.

  Attributes:
    title: what it shows.
    family: of its networks, a key of the scale's pairs.
    entries: what it is made of.
    claims: what it is printed for.
    axis: of a figure: 'depth', 'nonzeros' or a Greek letter; '' is a table.
    measure: the score.
  """

  title: str
  family: str
  entries: tuple[Entry, ...]
  claims: tuple[Claim, ...] = ()
  axis: str = ''
  measure: Measure = ACCURACY


_METHODS = {
  'scratch': 'scratch',
  'KD': 'kd',
  'FitNets': 'fitnets',
  'LIT': 'lit',
}
_TITLES = {
  'resnet': 'ResNet',
  'resnext': 'ResNeXt',
  'resnet_100': 'ResNet, CIFAR-100',
  'resnext_100': 'ResNeXt, CIFAR-100',
  'vdcnn_full': 'VDCNN',
  'vdcnn_polarity': 'VDCNN, Amazon polarity',
}
# Of table 3, teacher and student by their titles.
_PAIRS = {
  'resnet': ('resnet-110', 'resnet-20'),
  'resnext': ('resnext-110 (32x4d)', 'resnext-20 (32x4d)'),
}


def _epochs_of_lit(config: Config) -> int:
  return config.lit.epochs + config.finetune.epochs


def _half_cardinality(config: Config) -> int:
  return config.student.cardinality // 2


# Depths that a figure has at most, beside one as deep as the teacher.
_DEPTHS = 4


def _table2():
  words = {
    '': 'teacher',
    'lit': 'LIT',
    'l2': 'L2 of the images',
    'scratch': 'scratch',
    'random': 'random, as the student',
    'random_deep': 'random, as the teacher',
  }
  entries = tuple(Entry(label, method) for method, label in words.items())
  claims = (
    Claim('LIT', 'teacher', words='the student scores better than its teacher'),
    Claim('LIT', 'L2 of the images'),
    Claim('LIT', 'scratch'),
    Claim('scratch', 'random, as the student'),
  )
  return tuple(
    Artifact(
      f'Table 2: StarGAN by {measure.title.removesuffix(" %")}',
      'stargan', entries, claims, measure=measure,
    )
    for measure in (_ATTRIBUTES, _DISTANCE)
  )  # fmt: skip


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
  entries = [
    Entry(words[method], method, published=(accuracies[method],))
    for method in words
  ]
  others = [entry.label for entry in entries[1:]]
  entries += [
    Entry('FitNets, two stages', 'fitnets_two_stage'),
    Entry('KD, as many epochs as LIT', 'kd', {'kd.epochs': _epochs_of_lit}),
    Entry('scratch', 'scratch'),
  ]
  # Of an equal budget the paper says nothing.
  others.append('KD, as many epochs as LIT')
  return Artifact(
    f'Table 3: what of LIT makes it better, {_TITLES[family]}',
    family,
    tuple(entries),
    tuple(Claim('LIT', other) for other in others),
  )


def _table4(family):
  words = {'l2': 'L2', 'l1': 'L1', 'smooth_l1': 'smooth L1'}
  entries = tuple(
    Entry(words[loss], 'lit', {'lit.ir_loss': loss}, published=numbers)
    for loss, numbers in published.IR_LOSSES[family].items()
  )
  printed = {'resnet': (0.78, 0.02)}.get(family, (None, None))
  claims = (
    Claim('L2', 'L1', EQUAL, printed[0]),
    Claim('L2', 'smooth L1', p=printed[1]),
  )
  return Artifact(
    f'Table 4: losses of the IRs, {_TITLES[family]}', family, entries, claims
  )


def _table5(family):
  fp32, mixed = published.PRECISIONS[family]
  entries = (
    Entry('fp32', 'lit', published=fp32),
    Entry('mixed (bf16)', 'lit', {'precision': 'bf16'}, published=mixed),
    Entry('mixed (fp16)', 'lit', {'precision': 'fp16'}, published=mixed),
  )
  printed = {'resnet': 0.5, 'resnext': 1.0}[family]
  claims = tuple(
    Claim(entry.label, 'fp32', EQUAL, printed) for entry in entries[1:]
  )
  return Artifact(
    f'Table 5: mixed precision, {_TITLES[family]}', family, entries, claims
  )


def _by_depth(title, family, settings: Mapping[str, Any] = {}, born_again=True):
  """Every method at every depth, and LIT against the others at each."""
  students = [*range(_DEPTHS), *([AS_DEEP] if born_again else [])]
  entries = tuple(
    Entry(label(name, i), method, settings, i, series=name)
    for name, method in _METHODS.items()
    for i in students
  )
  claims = [
    Claim(label('LIT', i), label(other, i))
    for i in students
    for other in ('KD', 'FitNets', 'scratch')
  ]
  return Artifact(
    f'{title}, {_TITLES[family]}', family, entries, tuple(claims), 'depth'
  )


def label(series: str, student: int) -> str:
  """Of an entry of a figure by depth."""
  if student == AS_DEEP:
    return f'{series}, as deep as the teacher'
  return f'{series}, student {student + 1}'


def _figure3(family):
  """Figure 2's, with sequences: the student of 17 layers teaches on."""
  plain = _by_depth('Figure 3: accuracy by depth', family)
  via, born = label('LIT', 1), 'LIT again, student 2'
  sequence = (
    Entry('LIT by student 2', 'lit', series='LIT in sequence', teacher=via),
    Entry(born, 'lit', {}, 1, series='LIT in sequence', teacher=via),
  )
  claims = (
    Claim(sequence[0].label, label('LIT', 0)),
    Claim(born, via),
  )
  return plain._replace(
    entries=plain.entries + sequence, claims=plain.claims + claims
  )


def _figure4(family):
  settings = {'student.cardinality': _half_cardinality, 'lit.beta': 0.25}
  return _by_depth(
    'Figure 4: half the cardinality', family, settings, born_again=False
  )


_SPARSITIES = 0.5, 0.75, 0.875, 0.9375


def _figure6(family):
  """LIT's and scratch's student, pruned level by level."""
  entries, claims = [], []
  for series, method in (('LIT', 'lit'), ('scratch', 'scratch')):
    before = f'{series}, whole'
    entries.append(Entry(before, method, series=series))
    for sparsity in _SPARSITIES:
      name = f'{series}, {100 * sparsity:g} % pruned'
      settings = {'prune.sparsity': sparsity}
      entries.append(
        Entry(name, 'pruned', settings, series=series, start=before)
      )
      before = name
    layers = f'{series}, {100 * _SPARSITIES[1]:g} % of each layer'
    settings = {'prune.sparsity': _SPARSITIES[1], 'prune.prune_by': 'layer'}
    whole = f'{series}, whole'
    entries.append(
      Entry(layers, 'pruned', settings, start=whole,
            series=f'{series}, by layer')
    )  # fmt: skip
    entries.append(
      Entry(f'{series}, half the filters', 'pruned',
            {'prune.sparsity': 0.0, 'student.inner': (8, 16, 32)},
            start=whole, series=f'{series}, filters')
    )  # fmt: skip
  levels = ['whole', *(f'{100 * s:g} % pruned' for s in _SPARSITIES)]
  claims = tuple(Claim(f'LIT, {own}', f'scratch, {own}') for own in levels)
  return Artifact(
    f'Figure 6: size against accuracy under pruning, {_TITLES[family]}',
    family, tuple(entries), claims, 'nonzeros',
  )  # fmt: skip


def _figure7(family):
  alphas = 0.0, 0.25, 0.5, 0.75, 0.95, 1.0
  entries = (
    *(
      Entry(f'α {alpha}', 'kd', {'kd.alpha': alpha}, x=alpha, series='KD')
      for alpha in alphas
    ),
    # The other figures' KD has the paper's α, which need not be its best.
    Entry('LIT', 'lit'),
  )
  return Artifact(
    f'Figure 7: the weight of the labels in KD, {_TITLES[family]}',
    family,
    entries,
    (
      Claim('α 0.95', 'α 0.5', words='α can significantly affect accuracy'),
      *(Claim('LIT', f'α {alpha}') for alpha in alphas),
    ),
    'α',
  )


def _figure8(family):
  entries = tuple(
    Entry(f'β {beta}', 'lit', {'lit.beta': beta}, x=beta, series='LIT')
    for beta in (0.0, 0.25, 0.5, 0.75, 1.0)
  )
  return Artifact(
    f'Figure 8: the weight of KD in LIT, {_TITLES[family]}',
    family,
    entries,
    tuple(
      Claim(f'β {beta}', f'β {end}')
      for beta in (0.25, 0.5, 0.75)
      for end in (1.0, 0.0)
    ),
    'β',
  )


def _claims(family, words, student=0, born_again=''):
  """What the abstract and the blog say of a family."""
  own = [
    Entry(label(name, student), _METHODS[name], {}, student)
    for name in ('LIT', 'KD', 'scratch')
  ]
  entries = [Entry('teacher', ''), *own]
  claims = [Claim(own[0].label, 'teacher', NO_LOSS, words=words)]
  claims += [Claim(own[0].label, other.label) for other in own[1:]]
  if born_again:
    lit, kd, scratch = (
      Entry(label(name, AS_DEEP), _METHODS[name], {}, AS_DEEP)
      for name in ('LIT', 'KD', 'scratch')
    )
    entries += [lit, kd, scratch]
    words = 'born again: LIT up to .64 points above KD'
    claims.append(Claim(lit.label, kd.label, difference=0.0064, words=words))
    claims.append(Claim(scratch.label, kd.label, words=born_again))
  return Artifact(
    f'Claims, {_TITLES[family]}', family, tuple(entries), tuple(claims)
  )


_HARM = 'KD can harm a student that is as deep as its teacher'
_IMAGES = ('resnet', 'resnext')
_TEXTS = ('vdcnn_full', 'vdcnn_polarity')
_STARGAN = _table2()

# Each half of an artifact by its name. Table 6 needs no run; it is in
# document.py.
ARTIFACTS: dict[str, tuple[Artifact, ...]] = {
  'table2': _STARGAN,
  'table3': tuple(map(_table3, _IMAGES)),
  'table4': tuple(map(_table4, _IMAGES)),
  'table5': tuple(map(_table5, _IMAGES)),
  'table6': (),
  'fig2': tuple(
    _by_depth('Figure 2: accuracy by depth', family)
    for family in (*_IMAGES, 'resnet_100', 'resnext_100')
  ),
  'fig3': tuple(map(_figure3, _TEXTS)),
  'fig4': (_figure4('resnext'),),
  'fig5': (_STARGAN[0]._replace(title='Figure 5: images, StarGAN'),),
  'fig6': (_figure6('resnet'),),
  'fig7': tuple(
    _figure7(family) for family in (*_IMAGES, 'resnet_100', 'resnext_100')
  ),
  'fig8': tuple(map(_figure8, _IMAGES)),
  'fig9': (_STARGAN[0]._replace(title='Figure 9: more images, StarGAN'),),
  'claims': (
    _claims('resnet', '3.4 times less, without loss', born_again=_HARM),
    _claims('resnext', '5.5 times less, without loss', born_again=_HARM),
    _claims('resnext_100', 'without loss', born_again=_HARM),
    _claims('vdcnn_full', '3.2 times less (the blog: 1.7), without loss'),
    _claims('vdcnn_polarity', '3.2 times less (the blog: 1.7), without loss',
            born_again=_HARM),
    _STARGAN[1]._replace(
      title='Claims, StarGAN',
      claims=(Claim('LIT', 'teacher', NO_LOSS,
                    words='1.8 times less, without loss'),),
    ),
  ),
}  # fmt: skip


def find(name: str) -> dict[str, tuple[Artifact, ...]]:
  """The artifacts of that name, in halves by family; 'all' are all.

  Raises:
    UserError: there is none.
  """
  if name == 'all':
    return ARTIFACTS
  return {name: ARTIFACTS[choose('artifact', name, [*ARTIFACTS, 'all'])]}


def entry(artifact: Artifact, name: str) -> Entry:
  """The entry with that label."""
  return next(e for e in artifact.entries if e.label == name)
