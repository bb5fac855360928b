"""What a network costs: depth, parameters and multiply-accumulates.

The numbers are read off the jaxpr of the eval-mode forward pass, so they hold
for any block written in JAX. Nothing is run and no array is allocated.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import rich.box
import rich.console
import rich.table
from jax.extend import core

from lit_jax import blocks, layers

# Depth of a value that the example does not reach (a parameter, a constant).
_UNREACHED = -math.inf


@dataclasses.dataclass(frozen=True)
class Part:
  """One part of a network: the stem, a block or the head.

  Attributes:
    depth: convolution and matrix-multiply layers on the longest path.
    parameters: numbers in the 'params' collection.
    macs: multiply-accumulates of one example's forward pass.
    output_shape: shape of one example's output, without the batch axis; of
      several outputs, a pytree of shapes.
  """

  depth: int
  parameters: int
  macs: int
  output_shape: Any


@dataclasses.dataclass(frozen=True)
class Summary:
  """A network's cost, as a whole and by part.

  Attributes:
    depth: convolution and matrix-multiply layers on the longest path from
      the example to the output.
    parameters: numbers in the 'params' collection.
    macs: multiply-accumulates of one example's forward pass.
    parts: 'stem', 'blocks_0', ..., 'head', in the order they run.
  """

  depth: int
  parameters: int
  macs: int
  parts: dict[str, Part]

  def __str__(self) -> str:
    table = rich.table.Table(box=rich.box.SIMPLE, show_footer=True)
    table.add_column('Part', 'total')
    table.add_column('Output', '')
    table.add_column('Depth', str(self.depth), justify='right')
    table.add_column('Parameters', f'{self.parameters:,}', justify='right')
    table.add_column('MACs', f'{self.macs:,}', justify='right')
    for name, part in self.parts.items():
      table.add_row(
        name,
        ' x '.join(map(str, part.output_shape)),
        str(part.depth),
        f'{part.parameters:,}',
        f'{part.macs:,}',
      )
    out = io.StringIO()
    rich.console.Console(file=out, width=80, color_system=None).print(table)
    lines = (line.rstrip() for line in out.getvalue().splitlines())
    return '\n'.join(line for line in lines if line)


def summary(net: blocks.BlockNet) -> Summary:
  """Counts what one example's eval-mode forward pass of `net` costs.

  A multiply-accumulate is one scalar product term of a convolution or a matrix
  multiplication; terms that only meet padding are counted like all others.
  Element-wise operations, normalisation and pooling are not counted, nor is
  what only parameters enter, which a batch needs once however large it is. A
  loop with a length known beforehand counts that often, any other loop once,
  and of the branches of a condition the dearest counts.

  Args:
    net: an unbound `BlockNet`; its `example` says what one is.

  Returns:
    The totals and those of every part.
  """
  variables = blocks.shapes(net)
  params = variables.get('params', {})
  x = blocks.example(net)

  parts: dict[str, Part] = {}
  h: Any = x
  for name in net.parts:
    cost, h = _trace(blocks.part_function(net, name), variables, h)
    size = _size(params.get(name, {}))
    shape = jax.tree.map(lambda leaf: tuple(leaf.shape[1:]), h)
    parts[name] = Part(cost.depth, size, cost.macs, shape)

  whole, _ = _trace(lambda v, x: net.apply(v, x)[0], variables, x)
  return Summary(whole.depth, _size(params), whole.macs, parts)


class _Cost(NamedTuple):
  depth: int
  macs: int


def _size(tree: Any) -> int:
  """Numbers in all arrays of a tree."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _trace(
  forward: Callable[..., Any], variables: Any, x: Any
) -> tuple[_Cost, Any]:
  """Cost of forward(variables, x), and what that returns in the abstract."""
  with layers.plain_forms():
    closed, output = jax.make_jaxpr(forward, return_shape=True)(variables, x)
  # The example is the last argument; all before it are variables.
  read = len(jax.tree.leaves(x))
  depths = [_UNREACHED] * (len(closed.jaxpr.invars) - read) + [0] * read
  macs, out = _count(closed.jaxpr, depths)
  return _Cost(int(max([0, *out])), macs), output


def _count(jaxpr: Any, depths: Sequence[float]) -> tuple[int, list[float]]:
  """Walks a jaxpr once.

  Args:
    jaxpr: an open jaxpr.
    depths: layers on the longest path from the example to each input.

  Returns:
    The multiply-accumulates of the jaxpr and the depth of each output.
  """
  known = dict(zip(jaxpr.invars, depths, strict=True))

  def depth(atom: Any) -> float:
    if isinstance(atom, core.Literal):
      return _UNREACHED
    return known.get(atom, _UNREACHED)

  total = 0
  for eqn in jaxpr.eqns:
    macs, out = _count_equation(eqn, [depth(atom) for atom in eqn.invars])
    total += macs
    known.update(zip(eqn.outvars, out, strict=True))
  return total, [depth(atom) for atom in jaxpr.outvars]


def _count_equation(
  eqn: Any, depths: list[float]
) -> tuple[int, Sequence[float]]:
  """The same as `_count`, for one equation."""
  if max(depths, default=_UNREACHED) == _UNREACHED:
    return 0, [_UNREACHED] * len(eqn.outvars)
  name = eqn.primitive.name
  special = {
    'conv_general_dilated': _count_convolution,
    'dot_general': _count_matmul,
    'scan': _count_scan,
    'while': _count_while,
    'cond': _count_cond,
  }
  if name in special:
    return special[name](eqn, depths)
  inner = [
    _open(value)
    for value in eqn.params.values()
    if isinstance(value, core.Jaxpr | core.ClosedJaxpr)
  ]
  # jit, remat, custom_jvp_call and custom_vjp_call pass their inputs on as
  # they are, so that each output keeps the depth of its own path.
  if len(inner) == 1 and len(inner[0].invars) == len(depths):
    macs, out = _count(inner[0], depths)
    if len(out) == len(eqn.outvars):
      return macs, out
  return _count_unknown(eqn, depths, inner)


def _count_convolution(
  eqn: Any, depths: list[float]
) -> tuple[int, Sequence[float]]:
  kernel = eqn.invars[1].aval.shape
  out_axis = eqn.params['dimension_numbers'].rhs_spec[0]
  # The kernel's input axis holds the channels of one group already.
  per_output = math.prod(kernel) // max(kernel[out_axis], 1)
  macs = math.prod(eqn.outvars[0].aval.shape) * per_output
  return macs, [max(depths) + 1]


def _count_matmul(eqn: Any, depths: list[float]) -> tuple[int, Sequence[float]]:
  (contracted, _), _ = eqn.params['dimension_numbers']
  left = eqn.invars[0].aval.shape
  per_output = math.prod(left[axis] for axis in contracted)
  macs = math.prod(eqn.outvars[0].aval.shape) * per_output
  return macs, [max(depths) + 1]


def _count_scan(eqn: Any, depths: list[float]) -> tuple[int, Sequence[float]]:
  body, params = _open(eqn.params['jaxpr']), eqn.params
  first, carried = _scan_sizes(params)
  consts, carry = depths[:first], depths[first : first + carried]
  xs = depths[first + carried :]
  total, ys = 0, [_UNREACHED] * (len(eqn.outvars) - carried)
  for _ in range(params['length']):
    macs, out = _count(body, [*consts, *carry, *xs])
    total += macs
    carry = out[:carried]
    ys = list(map(max, ys, out[carried:]))
  return total, [*carry, *ys]


def _scan_sizes(params: Any) -> tuple[int, int]:
  """How many constants a scan reads, and how many values it carries."""
  if 'ft_in' in params:  # of jax 0.12
    consts, carry, _ = params['ft_in'].unpack()
    return len(consts), len(carry)
  return params['num_consts'], params['num_carry']


def _count_while(eqn: Any, depths: list[float]) -> tuple[int, Sequence[float]]:
  tests, consts = eqn.params['cond_nconsts'], eqn.params['body_nconsts']
  carry = depths[tests + consts :]
  test = _open(eqn.params['cond_jaxpr'])
  test_macs, _ = _count(test, [*depths[:tests], *carry])
  body_macs, out = _count(_open(eqn.params['body_jaxpr']), depths[tests:])
  return test_macs + body_macs, list(map(max, carry, out))


def _count_cond(eqn: Any, depths: list[float]) -> tuple[int, Sequence[float]]:
  choice, *inputs = depths
  runs = [_count(_open(branch), inputs) for branch in eqn.params['branches']]
  out = [
    max(choice, *column) for column in zip(*(o for _, o in runs), strict=True)
  ]
  return max(macs for macs, _ in runs), out


def _count_unknown(
  eqn: Any, depths: list[float], inner: Sequence[Any]
) -> tuple[int, Sequence[float]]:
  """An element-wise primitive, or one that uses its jaxprs its own way."""
  deepest = max(depths, default=_UNREACHED)
  total = 0
  for jaxpr in inner:
    macs, out = _count(jaxpr, [deepest] * len(jaxpr.invars))
    total += macs
    deepest = max([deepest, *out])
  return total, [deepest] * len(eqn.outvars)


def _open(jaxpr: Any) -> Any:
  return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
