"""The sizes at which the paper's artifacts are made."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.configs import (
  cifar10_hours,
  demo,
  demo_gan,
  demo_text,
  resnet,
  resnext,
  stargan,
  vdcnn,
)
from experiments.recipes import Config
from lit_jax.errors import choose


class Pair(NamedTuple):
  """A family's networks at a scale.

  Attributes:
    title: the networks and data, for people.
    config: makes the recipe.
    teacher: keys of `config.teacher`.
    depths: of the students, from the shallowest on.
    examples: that an epoch shows, for the estimated cost.
    judged: whether a network is trained in each run to judge the others, so
      that what shares a seed is best trained together.
    born_again: whether students as deep as the teacher are trained.
    only: names of the artifacts that it is for; () are all.
    settings: further keys of the configuration.
  """

  title: str
  config: Callable[[], Config]
  teacher: Mapping[str, Any]
  depths: tuple[int, ...]
  examples: int
  judged: bool = False
  born_again: bool = True
  only: tuple[str, ...] = ()
  settings: Mapping[str, Any] = {}


class Scale(NamedTuple):
  """What an artifact is made with.

  Attributes:
    title: the data and networks, for people.
    pairs: by family; one that is missing is left out.
    settings: keys of every configuration.
    seeds: how many runs make a number.
    published: whether the paper's own networks and data are used, so that its
      numbers may stand beside.
  """

  title: str
  pairs: Mapping[str, Pair]
  settings: Mapping[str, Any]
  seeds: int
  published: bool


# Whose keys every recipe has; what a run differs in from it is recorded.
USUAL = resnet.get_config


def _demo() -> Config:
  """The demo's recipe, in which all that compares IRs is trained alike."""
  config: Config = demo.get_config()
  for name in resnet.COMPARE_IRS[1:]:
    own = dict(epochs=config.lit.epochs)
    if name != 'hint':
      own['beta'] = config.lit.beta
    config[name].update(own)
  return config


def _small_resnext() -> Config:
  """The demo's recipe with ResNeXts of eight groups, and a teacher to train."""
  config = _demo()
  networks = resnext.get_config()
  for role, depth in (('teacher', 20), ('student', 8)):
    config[role] = networks[role]
    config[role].update(
      dict(depth=depth, unit='basic', cardinality=8, base_width=2)
    )
  config.train_teacher.epochs = 20
  return config


def _small_vdcnn() -> Config:
  """The text demo's, in which the teacher is made as its students are.

  Then one as deep as the teacher can be trained, and a student can teach.
  """
  config: Config = demo_text.get_config()
  config.student.shortcut = config.teacher.shortcut
  config.teacher.depth = 29
  config.baseline = ''
  config.fitnets.update(dict(config.lit))
  config.fitnets.update(dict(blocks='1', teacher_input=False))
  return config


def _amazon(dataset: str) -> Config:
  config = vdcnn.get_config()
  config.dataset = dataset
  return config


def _cifar100(config: Config) -> Config:
  config.dataset = 'cifar100'
  return config


PAPERS_DEPTHS = 20, 32, 44, 56
# The package's own teachers, which need no training.
_EMBEDDED = {'checkpoint': 'embedded'}
# Its training takes an hour; where it is not, it is trained.
_MIDS_TEACHER = pathlib.Path(__file__).parent / 'finished' / 'mid-teacher'
_OF_MID = {'checkpoint': str(_MIDS_TEACHER) if _MIDS_TEACHER.exists() else ''}
_FASHION = '2,000 images of Fashion-MNIST'
_SMALL = {
  'resnet': Pair(
    f'ResNet-20 → ResNet-8 and 14 on {_FASHION}',
    _demo, _EMBEDDED, (8, 14), 2000,
  ),
  'resnext': Pair(
    f'ResNeXt-20 → ResNeXt-8 (basic units, 8x2d) on {_FASHION}',
    _small_resnext, {}, (8,), 2000, only=('fig4',),
  ),
  'vdcnn_full': Pair(
    'VDCNN-29 → VDCNN-9 and 17 on 3,993 food reviews',
    _small_vdcnn, {}, (9, 17), 3993, born_again=False,
  ),
  'stargan': Pair(
    'StarGAN of 18 layers → 10 on 480 emoji portraits',
    demo_gan.get_config, _EMBEDDED, (10,), 4800, judged=True,
  ),
}  # fmt: skip
_FEW = {'train_examples': 512}

SCALES = {
  'full': Scale(
    "the paper's networks, data and recipes",
    {
      'resnet': Pair(
        'ResNet-110 → ResNet-20 to 56 on CIFAR-10',
        resnet.get_config, {}, PAPERS_DEPTHS, 50_000,
      ),
      'resnext': Pair(
        'ResNeXt-110 → ResNeXt-20 to 56 on CIFAR-10',
        resnext.get_config, {}, PAPERS_DEPTHS, 50_000,
      ),
      'resnet_100': Pair(
        'ResNet-110 → ResNet-20 to 56 on CIFAR-100',
        lambda: _cifar100(resnet.get_config()), {}, PAPERS_DEPTHS, 50_000,
      ),
      'resnext_100': Pair(
        'ResNeXt-110 → ResNeXt-20 to 56 on CIFAR-100',
        lambda: _cifar100(resnext.get_config()), {}, PAPERS_DEPTHS, 50_000,
      ),
      'vdcnn_full': Pair(
        'VDCNN-29 → VDCNN-9 and 17 on Amazon full',
        lambda: _amazon('amazon_full'), {}, (9, 17), 3_000_000,
      ),
      'vdcnn_polarity': Pair(
        'VDCNN-29 → VDCNN-9 and 17 on Amazon polarity',
        lambda: _amazon('amazon_polarity'), {}, (9, 17), 3_600_000,
      ),
      'stargan': Pair(
        'StarGAN of 18 layers → 10 on CelebA',
        stargan.get_config, {}, (10,), 200_600, judged=True,
        settings={'dataset': 'celeba'},
      ),
    },
    {},
    3,
    True,
  ),
  'mid': Scale(
    '20,000 images of CIFAR-10, for hours on two CPU cores',
    {
      'resnet': Pair(
        'ResNet-56 → ResNet-20 on 20,000 images of CIFAR-10, JPEG-recompressed',
        cifar10_hours.get_config, _OF_MID, (20,), 20_000, born_again=False,
        only=('fig8', 'claims'),
      )
    },
    {},
    3,
    False,
  ),
  'mini': Scale(
    "the package's own data, for a few hours on two CPU cores",
    _SMALL, {}, 3, False,
  ),
  'smoke': Scale(
    'one epoch a phase of a few hundred examples, for tests',
    {
      'resnet': _SMALL['resnet']._replace(
        depths=(8,), born_again=False, settings=_FEW
      ),
      'resnext': _SMALL['resnext']._replace(settings=_FEW),
      'vdcnn_full': _SMALL['vdcnn_full']._replace(depths=(9,), settings=_FEW),
      'stargan': _SMALL['stargan']._replace(settings={'repeats': 1}),
    },
    {'epochs_scale': 0.01},
    1,
    False,
  ),
}  # fmt: skip


def find(name: str) -> Scale:
  """The scale of that name.

  Raises:
    UserError: there is none.
  """
  return SCALES[choose('scale', name, SCALES)]


def recipe(pair: Pair, settings: Mapping[str, Any]) -> Config:
  """A family's configuration with keys such as 'lit.beta' set.

  It is made once, so that it must not be changed.

  Raises:
    KeyError: the recipe has no such key.
  """
  keys = {f'teacher.{key}': value for key, value in pair.teacher.items()}
  own = {**keys, **pair.settings, **settings}
  return _recipe(pair.config, tuple(own.items()))


@functools.cache
def _recipe(make, settings):
  return set_keys(make(), dict(settings))


def set_keys(config: Config, settings: Mapping[str, Any]) -> Config:
  """The configuration itself, with keys such as 'lit.beta' set.

  Raises:
    KeyError: it has no such key.
  """
  config.lock().update_from_flattened_dict(settings)
  return config


def value(config: Config, key: str) -> Any:
  """What a configuration has by a key such as 'lit.beta'."""
  return functools.reduce(
    lambda sheet, name: sheet[name], key.split('.'), config
  )
