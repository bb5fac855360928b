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
from lit_jax.networks.export import int8

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
    stored: what a file holds of its variables: themselves, or with an Int8 in
      the place of some, which are then what these stand for.
  """

  facts: saved.Facts
  net: BlockNet
  variables: dict[str, Any]
  preprocess: Preprocess
  stored: dict[str, Any]

  @property
  def spec(self) -> dict[str, Any]:
    """What `models.build` makes the network from."""
    return dict(self.facts.spec or {})

  @property
  def is_int8(self) -> bool:
    """Whether its weights are stored in 8 bits."""
    leaves = jax.tree.leaves(self.stored, is_leaf=int8.is_int8)
    return any(map(int8.is_int8, leaves))

  def function(self, variables: Any, inputs: Any, preprocess: bool) -> Any:
    """The logits [n, classes], float32, of a batch, in evaluation mode.

    Args:
      variables: the student's, others of these shapes, or with Int8.
      inputs: [n, …], what the network reads, or with `preprocess` uint8.
      preprocess: whether to normalise the inputs before.
    """
    if preprocess:
      inputs = self.preprocess.normalize(inputs)
    return infer(self.net, int8.restored(variables, jnp), inputs)[0]


class Inputs(NamedTuple):
  """What a student and its copies are shown.

  Attributes:
    raw: uint8 [n, …], as data sets hold them.
    title: what they are, in words.
    labels: int32 [n], their classes; None where there are none.
  """

  raw: np.ndarray
  title: str
  labels: np.ndarray | None = None


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
  own = jax.device_get(variables)
  return Student(facts, net, own, preprocess, own)


def in_int8(student: Student) -> Student:
  """The same student with weights of 8 bits."""
  stored = int8.rounded(student.variables)
  return student._replace(variables=int8.restored(stored), stored=stored)


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
    images, labels = sources.load(_PACKAGED).splits['test']
    if images.shape[1:] == shape:
      return Inputs(images, f'test images of {_PACKAGED}', labels)
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
