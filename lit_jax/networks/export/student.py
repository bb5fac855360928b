"""A network to be exported, and inputs on which its copies are compared."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax import models
from lit_jax.blocks import BlockNet, infer
from lit_jax.data import sources
from lit_jax.data.preprocess import ImagePreprocess, Preprocess, TextPreprocess
from lit_jax.data.texts.characters import SYMBOLS
from lit_jax.errors import UserError, first_line, shown
from lit_jax.networks import saved

Run = Callable[[np.ndarray], np.ndarray]

FAMILIES = ('resnet', 'resnext', 'vdcnn')
# The one data set that comes with the package; it is cut from the whole one.
_PACKAGED = 'fashion_mnist_mini'
_RANDOM = 256
_BATCH = 100
# What stands in an alphabet besides its symbols: padding, and all others.
_IDS = len(SYMBOLS) + 2


class Student(NamedTuple):
  """A trained classifier.

  Attributes:
    facts: what is known of it; its `spec` is none of a BlockNet of one's own.
    net: the network, computing in float32.
    variables: 'params' and 'batch_stats', float32 arrays of NumPy.
    preprocess: what it must be fed with.
  """

  facts: saved.Facts
  net: BlockNet
  variables: dict[str, Any]
  preprocess: Preprocess

  @property
  def spec(self) -> dict[str, Any]:
    """What `models.build` makes the network from."""
    return dict(self.facts.spec or {})

  def function(self, variables: Any, inputs: Any, preprocess: bool) -> Any:
    """The logits [n, classes], float32, of a batch, in evaluation mode.

    Args:
      variables: the student's, or others of these shapes.
      inputs: [n, …], what the network reads, or with `preprocess` uint8.
      preprocess: whether to normalise the inputs before.
    """
    if preprocess:
      inputs = self.preprocess.normalize(inputs)
    return infer(self.net, variables, inputs)[0]


class Inputs(NamedTuple):
  """What a student and its copies are shown.

  Attributes:
    raw: uint8 [n, …], as data sets hold them.
    title: what they are, in words.
  """

  raw: np.ndarray
  title: str


def of(facts: saved.Facts, variables: Any, where: str) -> Student:
  """The student of a network's facts and arrays.

  Args:
    facts: of a saved network.
    variables: its own.
    where: they were read from, for messages.

  Raises:
    UserError: it is no classifier of ours, or its normalisation is not known.
  """
  spec = dict(facts.spec or {})
  if spec.get('family') not in FAMILIES:
    raise UserError(
      f'{where} is a network of the family {shown(spec.get("family"))}, which '
      f'cannot be exported; give a classifier, {", ".join(FAMILIES)}'
    )
  net = models.build(spec)
  try:
    preprocess = _preprocess(net, facts.input)
  except (KeyError, TypeError, ValueError, UserError) as error:
    raise UserError(
      f'{where} does not say what it must be fed with ({first_line(error)}); '
      'train the network anew'
    ) from None
  return Student(facts, net, jax.device_get(variables), preprocess)


def _preprocess(net, facts) -> Preprocess:
  if net.example.dtype == jnp.uint8:
    return TextPreprocess().fed_by(facts)
  empty = ImagePreprocess((), (), crop=False, flip=False)
  preprocess = empty.fed_by(facts)
  channels = net.example.shape[-1]
  if not len(preprocess.mean) == len(preprocess.std) == channels:
    raise ValueError(f'its normalisation is not of {channels} channels')
  return preprocess


def inputs(student: Student) -> Inputs:
  """Real examples where the package holds such, or else random ones."""
  shape, name = student.net.example.shape, student.facts.dataset
  if name.removesuffix('_mini') == _PACKAGED.removesuffix('_mini'):
    images = sources.load(_PACKAGED).splits['test'].inputs
    if images.shape[1:] == shape:
      return Inputs(images, f'test images of {_PACKAGED}')
  texts = isinstance(student.preprocess, TextPreprocess)
  rng = np.random.default_rng(0)
  raw = rng.integers(0, _IDS if texts else 256, (_RANDOM, *shape), np.uint8)
  return Inputs(raw, 'random inputs, for the package has none of its data')


def fed(student: Student, raw: np.ndarray) -> np.ndarray:
  """What the network itself reads of raw inputs."""
  return np.asarray(student.preprocess.normalize(jnp.asarray(raw)))


def run(student: Student, variables: Any = None) -> Run:
  """What the student says, as it is evaluated, of what the network reads.

  Args:
    student: any.
    variables: others of the student's shapes, in their place.

  Returns:
    A function of inputs [n, …] that returns float32 [n, classes].
  """
  own = student.variables if variables is None else variables
  forward = jax.jit(lambda v, x: student.function(v, x, False))
  return lambda x: np.asarray(forward(own, x))


def in_batches(run: Run, inputs: np.ndarray) -> np.ndarray:
  """The logits of many inputs, some at a time."""
  parts = [inputs[i : i + _BATCH] for i in range(0, len(inputs), _BATCH)]
  return np.concatenate([run(part) for part in parts])
