"""The sizes at which the paper's artifacts are made."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.configs import demo, resnet, resnext
from experiments.recipes import Config
from lit_jax.errors import choose


class Pair(NamedTuple):
  """A family's networks at a scale.

  Attributes:
    config: makes the recipe.
    teacher: keys of `config.teacher`.
    depths: of the students, from the shallowest on.
  """

  config: Callable[[], Config]
  teacher: Mapping[str, Any]
  depths: tuple[int, ...]


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


def _demo() -> Config:
  """The demo's recipe, in which all that compares IRs is trained alike."""
  config: Config = demo.get_config()
  for name in ('one_ir', 'fitnets', 'several_irs'):
    config[name].update(dict(epochs=config.lit.epochs, beta=config.lit.beta))
  return config


_PAPERS_DEPTHS = 20, 32, 44, 56
# The package's own teacher, which needs no training.
_EMBEDDED = Pair(_demo, {'checkpoint': 'embedded'}, (8, 14))

SCALES = {
  'full': Scale(
    "CIFAR-10, the paper's networks and recipes",
    {
      'resnet': Pair(resnet.get_config, {}, _PAPERS_DEPTHS),
      'resnext': Pair(resnext.get_config, {}, _PAPERS_DEPTHS),
    },
    {},
    3,
    True,
  ),
  'mini': Scale(
    '2,000 images of Fashion-MNIST, ResNet-20 → ResNet-8 (and 14)',
    {'resnet': _EMBEDDED},
    {},
    3,
    False,
  ),
  'smoke': Scale(
    '2,000 images of Fashion-MNIST, one epoch a phase',
    {'resnet': _EMBEDDED},
    {'epochs_scale': 0.05},
    2,
    False,
  ),
}


def find(name: str) -> Scale:
  """The scale of that name.

  Raises:
    UserError: there is none.
  """
  return SCALES[choose('scale', name, SCALES)]


def recipe(pair: Pair, settings: Mapping[str, Any]) -> Config:
  """A family's configuration with keys such as 'lit.beta' set.

  Raises:
    KeyError: the recipe has no such key.
  """
  config = pair.config().lock()
  config.teacher.update(pair.teacher)
  config.update_from_flattened_dict(settings)
  return config


def value(config: Config, key: str) -> Any:
  """What a configuration has by a key such as 'lit.beta'."""
  return functools.reduce(
    lambda sheet, name: sheet[name], key.split('.'), config
  )
