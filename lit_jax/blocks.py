"""BlockNet: a network in blocks that returns every intermediate representation.

    x → stem → blocks[0] → … → blocks[k-1] → head → output
           T_0          T_1              T_k

An intermediate representation (IR) is what stands at a cut: T_0 after the
stem, T_i after the i-th block. A teacher and a student fit together when
their IRs have equal shapes at every cut.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from flax.core import freeze, unfreeze
from jax.core import Tracer

from lit_jax.errors import UserError, reason

Train = bool | Collection[str]


def in_training(train: Train, part: str) -> bool:
  """Whether `part` runs in training mode: all, none, or the ones named."""
  return train if isinstance(train, bool) else part in train


class BlockNet(nn.Module):
  """Stem, blocks and head: any three parts of the user's own.

  Each part is a module called as `part(h, train)`. Parameters and batch
  statistics stand under the top-level keys `stem`, `blocks_0` …, `head` (a
  part without any has no key).

  Attributes:
    stem: from the input to the first IR.
    blocks: each from one IR to the next.
    head: from the last IR to the output.
    example: one example that the network reads, without the batch axis: a
      pytree of `jax.ShapeDtypeStruct`, such as that of an image ((32, 32, 3),
      float32), of a text's character ids ((1014,), uint8), or a dictionary or
      tuple of several.
  """

  stem: nn.Module
  blocks: tuple[nn.Module, ...]
  head: nn.Module
  example: Any = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)

  def __post_init__(self):
    if isinstance(self.example, Mapping):
      # Programs are compiled once a network, which is therefore hashed.
      object.__setattr__(self, 'example', freeze(self.example))
    super().__post_init__()

  def __call__(
    self, x: Any, train: Train = False
  ) -> tuple[Any, tuple[jax.Array, ...]]:
    """Runs the whole network.

    Args:
      x: a batch of such examples: each leaf with a leading axis [n, …].
      train: batch norm by the batch's statistics (and running statistics
        updated) in every part, in no part, or in the parts named.

    Returns:
      The output, and the IRs (T_0, …, T_k).
    """
    return self.after_stem(self.stem(x, in_training(train, 'stem')), train)

  def after_stem(
    self, h: jax.Array, train: Train = False
  ) -> tuple[Any, tuple[jax.Array, ...]]:
    """Runs all but the stem from T_0; returns what the whole network does."""
    irs = [h]
    for i in range(len(self.blocks)):
      irs.append(self.block(irs[-1], i, train))
    return self.head(irs[-1], in_training(train, 'head')), tuple(irs)

  def block(self, h: jax.Array, i: int, train: Train = False) -> jax.Array:
    """Runs block i alone, on any input of the right shape (T_i → T_{i+1})."""
    return self.blocks[i](h, in_training(train, f'blocks_{i}'))

  @property
  def parts(self) -> tuple[str, ...]:
    """The parts' names, in the order in which data flows through them."""
    return ('stem', *self.block_names, 'head')

  @property
  def block_names(self) -> tuple[str, ...]:
    return tuple(f'blocks_{i}' for i in range(len(self.blocks)))


def init(net: BlockNet, key: jax.Array) -> dict[str, Any]:
  """Fresh variables: {'params': …, 'batch_stats': …}, float32."""
  return draw(net, key, example(net))


def draw(module: nn.Module, key: jax.Array, inputs: Any) -> dict[str, Any]:
  """Fresh variables of any module that reads inputs of those shapes."""
  # Within a larger program there are no options of one's own.
  init = module.init if isinstance(key, Tracer) else _compiled(module)
  return {'batch_stats': {}} | dict(init(key, jax.tree.map(_zeros, inputs)))


def put(module: nn.Module, values: Mapping[tuple[str, ...], Any]) -> None:
  """Sets a bound module's variables: by collection and path, all of a name."""
  for collection, tree in traverse_util.unflatten_dict(values).items():
    for name, value in tree.items():
      module.put_variable(collection, name, value)


def check_hashable(what: str, value: Any) -> None:
  """Raises UserError unless programs can be found by what modules hold."""
  try:
    hash(value)
  except TypeError as error:
    raise UserError(
      f'{what} cannot be hashed ({reason(error)}), by which programs are '
      'found; give it tuples, no lists or arrays'
    ) from error


# Compiled once a module. Drawing many kernels takes seconds to compile, and
# most of them went into making fast what runs once.
@functools.cache
def _compiled(module):
  options: Any = {'xla_backend_optimization_level': 0}
  if jax.default_backend() != 'cpu':
    options = None  # not tried on others
  return jax.jit(module.init, compiler_options=options)


def _zeros(leaf):
  return np.zeros(leaf.shape, leaf.dtype)


def example(net: BlockNet, batch: int = 1) -> Any:
  """Shapes and dtypes of a batch that the network reads: a pytree."""
  return batched(net.example, batch)


def batched(example: Any, batch: int) -> Any:
  """Shapes and dtypes of so many examples, of those of one."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype),
    unfreeze(example),
  )


def shapes(net: BlockNet) -> dict[str, Any]:
  """The variables' shapes and dtypes, without computing anything."""
  # Even the key only in the abstract; making one would compile a program.
  init = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), example(net))
  return {'batch_stats': {}} | dict(init)


def cut_shapes(net: BlockNet) -> dict[str, Any]:
  """Shape of what each part returns for one example, by the part's name."""

  def run(variables, x):
    return net.apply(variables, x)

  output, irs = jax.eval_shape(run, shapes(net), example(net))
  return {
    part: jax.tree.map(lambda leaf: tuple(leaf.shape[1:]), value)
    for part, value in zip(net.parts, (*irs, output), strict=True)
  }


def infer(net: BlockNet, variables: Any, *args: Any, **kwargs: Any) -> Any:
  """`net.apply` in evaluation mode: the output and IRs, or one block's."""
  return net.apply(variables, *args, **kwargs)


def part_function(net: BlockNet, name: str) -> Callable[..., jax.Array]:
  """One part in evaluation mode: a function of the variables and its input."""
  if name in net.block_names:
    index = net.block_names.index(name)
    return lambda v, h: net.apply(v, h, index, method='block')  # pyright: ignore[reportReturnType]
  return lambda v, h: net.apply(  # pyright: ignore[reportReturnType]
    v, h, method=lambda bound, h: getattr(bound, name)(h, False)
  )


def describe(tree: Any) -> str:
  """Shapes and dtypes of a pytree in words: '(32, 32, 3) float32'."""

  def words(leaf):
    return f'{tuple(leaf.shape)} {jnp.dtype(leaf.dtype)}'

  texts = jax.tree.map(words, tree)
  return texts if isinstance(texts, str) else str(texts)


class Cut(NamedTuple):
  """What teacher and student have at one place of the network.

  Attributes:
    part: what it is the output of; 'input' is the example.
    teacher: the shape there, of one example; None where the teacher has no such
      part. Of the input shapes and dtypes in words, of several outputs a
      pytree of shapes.
    student: likewise.
  """

  part: str
  teacher: Any
  student: Any

  @property
  def fits(self) -> bool:
    return self.teacher == self.student


def cuts(teacher: BlockNet, student: BlockNet) -> tuple[Cut, ...]:
  """The input and every cut of a pair, whether or not the two fit."""
  inputs = (describe(unfreeze(net.example)) for net in (teacher, student))
  shapes_at = cut_shapes(teacher), cut_shapes(student)
  longer = max(teacher, student, key=lambda net: len(net.blocks))
  return (
    Cut('input', *inputs),
    *(
      Cut(part, *(own.get(part) for own in shapes_at)) for part in longer.parts
    ),
  )


def check_pair(teacher: BlockNet, student: BlockNet) -> None:
  """Raises UserError unless teacher and student fit at every cut.

  The message names the first part that differs, and both shapes.
  """
  first, *others = cuts(teacher, student)
  if not first.fits:
    raise UserError(
      f'teacher and student read different inputs: {first.teacher} and '
      f'{first.student}; give both the same example'
    )
  if len(teacher.blocks) != len(student.blocks):
    raise UserError(
      f'the teacher has {len(teacher.blocks)} blocks and the student '
      f'{len(student.blocks)}; cut both into the same number of blocks'
    )
  for cut in others:
    if not cut.fits:
      raise UserError(
        f'{cut.part} returns shape {cut.teacher} in the teacher and '
        f'{cut.student} in the student; the two must be equal at every cut '
        '(same family, width and number of classes)'
      )
