"""A Flax module as a chain of parts, of which each reads the one before it.

Each part runs the whole module again, in the abstract: submodules at earlier
cuts are not called, the one where the part begins returns the part's input, and
nothing follows the one where it ends. What the part's output does not need is
left out of the equations that this gives, and what it does need must belong to
the part: its input, its variables and constants. So a module that is no chain
is seen by its data flow, whatever its code looks like.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.core import Scope, unfreeze
from flax.core.tracers import current_trace
from flax.errors import InvalidRngError
from jax import core as jax_core
from jax.extend import core
from jax.tree_util import tree_leaves_with_path

from lit_jax import blocks
from lit_jax.errors import UserError, near, reason, shortened, shown

_COLLECTIONS = 'params', 'batch_stats'
_NAMES = 300  # characters of a module's names in a message

# What a part may read has a name: a variable its path, such as ('params',
# 'Conv_0', 'kernel'), the IR at a cut ('ir', its submodule), and these.
Name = tuple[str, ...]
IN, _EXAMPLE = ('in',), ('example',)


@dataclasses.dataclass(frozen=True)
class Chain:
  """A module and where it is cut; the arguments of `cut`."""

  module: nn.Module
  at: tuple[str, ...]
  example: Any
  train: str | None

  @property
  def parts(self) -> tuple[str, ...]:
    """The parts' names, in the order in which data flows through them."""
    return ('stem', *(f'blocks_{i}' for i in range(len(self.at) - 1)), 'head')

  def flags(self, train: bool) -> dict[str, bool]:
    """How the module is told that it trains."""
    said = str(self.train or '')
    name = said.removeprefix('not ')
    return {name: train == (name == said)} if said else {}


def flat(variables) -> dict[Any, Any]:
  """Variables by their names."""
  return dict(traverse_util.flatten_dict(unfreeze(variables)))


def batch(chain, examples):
  """The shapes and dtypes of so many examples."""
  return blocks.batched(chain.example, examples)


# What is known of a module, once for all.


@functools.cache
def _drawing(chain) -> tuple[Any, dict[Name, jax.ShapeDtypeStruct]]:
  """How the module draws its variables: a jaxpr of a key, and their shapes."""

  def draw(key):
    inputs = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch(chain, 1)
    )
    variables = chain.module.init(key, inputs, **chain.flags(False))
    return flat(nn.meta.unbox(variables))

  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.make_jaxpr(draw, return_shape=True)(key)


def template(chain) -> dict[Name, jax.ShapeDtypeStruct]:
  """The shapes and dtypes of the module's variables."""
  return _drawing(chain)[1]


def drawn(chain, index, key) -> dict[Name, jax.Array]:
  """Fresh variables of one part, and nothing computed for the others."""
  closed, shapes = _drawing(chain)
  names = [path[0].key for path, _ in tree_leaves_with_path(shapes)]
  mine = [owners(chain)[name] == index for name in names]
  jaxpr, _ = _pruned(closed.jaxpr, 1, mine)
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  values = jax_core.eval_jaxpr(jaxpr, closed.consts, key)
  return dict(zip(itertools.compress(names, mine), values, strict=True))


class _Call(NamedTuple):
  """A submodule's call on two examples.

  Attributes:
    output: what it returned, if one array of both.
    hidden: whether it was within a transformation.
  """

  output: jax.ShapeDtypeStruct | None
  hidden: bool


@functools.cache
def _calls(chain) -> dict[str, list[_Call]]:
  """Every submodule's calls, in the order in which the first of each ended."""
  calls: dict[str, list[_Call]] = {}
  within: list[str] = []

  def note(call, args, kwargs, context):
    name = '/'.join(context.module.path)
    # A class calls its parent's `__call__`, a transformed one its own.
    if context.method_name != '__call__' or name in within:
      return call(*args, **kwargs)
    within.append(name)
    y = call(*args, **kwargs)
    within.remove(name)
    hidden = current_trace() != outermost[0]
    array = isinstance(y, jax.Array) and y.shape[:1] == (2,)
    output = jax.ShapeDtypeStruct(y.shape, y.dtype) if array else None
    calls.setdefault(name, []).append(_Call(output, hidden))
    return y

  outermost = []

  def run(inputs):
    outermost.append(current_trace())
    variables = traverse_util.unflatten_dict(inputs[0])
    with nn.intercept_methods(note):
      chain.module.apply(variables, inputs[1], **chain.flags(False))

  jax.eval_shape(run, (template(chain), batch(chain, 2)))
  return calls


@functools.cache
def owners(chain) -> dict[Name, int]:
  """The part, by its index, that every variable belongs to.

  Raises:
    UserError: the module is no chain at the cuts.
  """
  with _told('the module cannot read its example'):
    variables = template(chain)
    unknown = {name[0] for name in variables} - set(_COLLECTIONS)
    if unknown:
      raise UserError(
        f'the module keeps {", ".join(sorted(unknown))}, and a BlockNet has '
        'params and batch_stats alone; cut a module without'
      )
    calls = _calls(chain)
  _check_cuts(chain, calls)
  found: dict[Name, int] = {}
  for index, part in enumerate(chain.parts):
    h = batch(chain, 2)
    if index:
      h = calls[chain.at[index - 1]][0].output
    for train in (False, True):
      with _told(f'{part} cannot run by itself'):
        traced = trace(chain, index, train, variables | {IN: h}, {})
      for name in sorted(traced.reads & variables.keys()):
        if found.setdefault(name, index) != index:
          raise UserError(
            f'{"/".join(name)} is read in {chain.parts[found[name]]} and in '
            f'{part}; cut the module where all that reads it is in one part'
          )
  return {name: _nearest(found, name) for name in variables}


def _nearest(owners, name):
  """Of what no output reads, the part whose variables stand beside it."""

  def shared(other):
    pairs = list(zip(name[1:], other[1:], strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))

  nearest = max(owners, key=lambda o: (o == name, shared(o)), default=None)
  return owners.get(nearest, 0)


def _check_cuts(chain, calls):
  """Raises UserError unless each cut is one call that returns one array."""
  known = sorted((name for name in calls if name), key=lambda n: n.count('/'))
  for name in chain.at:
    if name not in calls:
      raise UserError(
        f'the module calls no {shown(name)}{near(name, known)}; its submodules '
        f'are {shortened(", ".join(known), _NAMES)}'
      )
    if any(call.hidden for call in calls[name]):
      raise UserError(
        f'{name} runs within a scan, vmap, jit or remat, where it cannot be '
        'cut; cut the module without, or at a submodule that contains it'
      )
    if len(calls[name]) > 1:
      raise UserError(
        f'{name} is called {len(calls[name])} times, so that it marks no '
        'place; name a submodule that is called once'
      )
    if calls[name][0].output is None:
      raise UserError(
        f'{name} returns no single array of all examples, [n, …]; name a '
        'submodule that does'
      )
  order = [name for name in calls if name in chain.at]
  if order != list(chain.at):
    raise UserError(
      f'the cuts are reached in the order {", ".join(order)}; name them in it'
    )


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
  """Makes one line of whatever the user's module raises."""
  try:
    yield
  except UserError:
    raise
  except InvalidRngError as error:
    raise UserError(
      f'{what}: it draws random numbers, as dropout does in training, and the '
      'parts of a BlockNet get none; set its rate to 0'
    ) from error
  except Exception as error:
    raise UserError(f'{what} ({reason(error)})') from error


# A part by itself.


class _Ended(Exception):
  """Carries a part's output past what follows it in the module."""

  def __init__(self, output):
    super().__init__('a part of a cut module ended')
    self.output = output


class _Traced(NamedTuple):
  """A part's equations, all of which its outputs need.

  Attributes:
    jaxpr: of the leaves of the given inputs.
    consts: its constants.
    outputs: structure of what it returns.
    reads: the names of the inputs that it needs.
  """

  jaxpr: Any
  consts: list[Any]
  outputs: Any
  reads: set[Name]

  def __call__(self, given):
    leaves = jax.tree.leaves(given)
    leaves = jax_core.eval_jaxpr(self.jaxpr, self.consts, *leaves)
    return jax.tree.unflatten(self.outputs, leaves)


def trace(chain, index, train, given, others, statistics=()) -> _Traced:
  """Traces one part.

  Args:
    chain: of which it is a part.
    index: of the part.
    train: whether it trains.
    given: what it may read, by name; arrays or their shapes.
    others: the variables of the other parts.
    statistics: names of those whose new values are returned.

  Returns:
    Equations that return the part's output and those values by name.

  Raises:
    UserError: it needs more than what is given.
  """
  run = functools.partial(_run, chain, index, train, statistics)
  foreign = others | _foreign(chain, index, given[IN])
  closed, outputs = jax.make_jaxpr(run, return_shape=True)(given, foreign)
  names = [path[1].key for path, _ in tree_leaves_with_path((given, foreign))]
  count = len(jax.tree.leaves(given))
  jaxpr, needed = _pruned(closed.jaxpr, count)
  reads = set(itertools.compress(names, needed))
  for name in sorted(reads & foreign.keys()):
    raise UserError(_refusal(chain, index, name))
  return _Traced(jaxpr, closed.consts, jax.tree.structure(outputs), reads)


def _foreign(chain, index, h):
  """What a part must not read beside the other parts' variables."""
  examples = jax.tree.leaves(h)[0].shape[0]
  result: dict[Name, Any] = {_EXAMPLE: batch(chain, examples)}
  for name in chain.at[: max(index - 1, 0)]:
    ir: Any = _calls(chain)[name][0].output
    shape = (examples, *ir.shape[1:])
    result['ir', name] = jax.ShapeDtypeStruct(shape, ir.dtype)
  return result


def _refusal(chain, index, name):
  part = chain.parts[index]
  start = chain.at[index - 1]
  if name[0] in _COLLECTIONS:
    read = f'{"/".join(name)}, a variable of another part'
  elif name == _EXAMPLE:
    read = "the module's input"
  else:
    read = f'what {name[1]} returned'
  return (
    f'the module is no chain at {start}: {part} reads {read}, beside what '
    f'{start} returns; cut where nothing else goes on'
  )


def _run(chain, index, train, statistics, given, foreign):
  """The module from one cut to the next."""
  inputs = foreign | given
  variables = {k: v for k, v in inputs.items() if k[0] in _COLLECTIONS}
  # As `bind` does it, but that whoever looks at the modules meets them by the
  # paths of the network's variables.
  scope = Scope(
    traverse_util.unflatten_dict(variables),
    mutable=['batch_stats'],
    path=(chain.parts[index],),
  )
  module: Any = chain.module.clone(parent=scope, _deep_clone=True)
  x = given[IN] if index == 0 else foreign[_EXAMPLE]
  reached = []

  def between(call, args, kwargs, context):
    name = '/'.join(context.module.path[1:])
    called = context.method_name == '__call__' and name not in reached
    place = chain.at.index(name) if called and name in chain.at else None
    if place is None or place > index:
      return call(*args, **kwargs)
    reached.append(name)
    if place == index:
      raise _Ended(call(*args, **kwargs))
    return inputs[IN if place == index - 1 else ('ir', name)]

  try:
    with nn.intercept_methods(between):
      output = module(x, **chain.flags(train))
  except _Ended as ended:
    output = ended.output
  for name in chain.at[max(index - 1, 0) : index + 1]:
    if name not in reached:
      raise UserError(
        f'the module does not reach {name} when it '
        f'{"trains" if train else "is evaluated"} on such examples'
      )
  new = flat(module.variables)
  return output, {name: new[name] for name in statistics}


def _pruned(jaxpr, count, outputs=None):
  """A jaxpr without the equations that its outputs do not need.

  Args:
    jaxpr: open.
    count: how many of its inputs are kept.
    outputs: which of its outputs are, as booleans; None is all.

  Returns:
    The jaxpr, and as booleans which of all inputs its outputs need.
  """
  outputs = outputs or [True] * len(jaxpr.outvars)
  results = list(itertools.compress(jaxpr.outvars, outputs))
  needed, equations = set(_variables(results)), []
  for equation in reversed(jaxpr.eqns):
    if not needed.isdisjoint(equation.outvars):
      equations.append(equation)
      needed.update(_variables(equation.invars))
  # JAX's own checks compare the names with what they name.
  info = jaxpr.debug_info
  names, paths = info.arg_names[:count], info.result_paths
  paths = paths and tuple(itertools.compress(paths, outputs))
  kept = jaxpr.replace(
    invars=jaxpr.invars[:count],
    outvars=results,
    eqns=equations[::-1],
    debug_info=info._replace(arg_names=names, result_paths=paths),
  )
  return kept, [variable in needed for variable in jaxpr.invars]


def _variables(atoms):
  return (atom for atom in atoms if not isinstance(atom, core.Literal))
