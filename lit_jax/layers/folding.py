"""Batch norms of a frozen network, folded into the convolutions before them.

In evaluation mode a batch norm is a product and a sum by channel, of which a
convolution's kernel takes up the product. A GPU then makes convolution, sum,
shortcut and ReLU in one kernel. `Conv` and `BatchNorm` see by their variables
that they are folded.
"""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax import traverse_util
from jax.ad_checkpoint import checkpoint_name

from lit_jax.layers.convolution import Conv
from lit_jax.layers.device import plain_forms
from lit_jax.layers.normalisation import BatchNorm, slope_and_offset

Variables = dict[str, Any]
_Path = tuple[str, ...]


class _Pair(NamedTuple):
  """A convolution, the norm that reads it, and its computation's dtype."""

  conv: _Path
  norm: _Path
  dtype: Any


def fold(
  run: Callable[[Variables, Any], Any], variables: Variables, x: Any
) -> Variables:
  """The variables with every batch norm folded that can be.

  Args:
    run: the network in evaluation mode, of variables and input.
    variables: 'params' and 'batch_stats'.
    x: an input, or its shapes.

  Returns:
    Variables for the same network. A folded convolution has 'folded', its
    kernel as [c_out, kh, kw, c_in] in the dtype of its computation, and a
    folded norm has its 'bias' alone. A convolution that anything else reads
    as well stays as it is.
  """
  flat: dict[Any, Any] = dict(traverse_util.flatten_dict(variables))
  for conv, norm, dtype in _pairs(run, variables, x):
    if ('params', *conv, 'kernel') not in flat:
      continue  # It ends the part before (networks/cut.py).
    scale, bias = (flat.pop(('params', *norm, n)) for n in ('scale', 'bias'))
    mean, var = (flat.pop(('batch_stats', *norm, n)) for n in ('mean', 'var'))
    slope, offset = slope_and_offset(scale, bias, mean, var)
    kernel = flat.pop(('params', *conv, 'kernel')) * slope[None, None, None]
    flat['params', *conv, 'folded'] = kernel.transpose(3, 0, 1, 2).astype(dtype)
    flat['params', *norm, 'bias'] = offset.astype(dtype)
  return {'batch_stats': {}} | traverse_util.unflatten_dict(flat)


def _pairs(run, variables, x) -> list[_Pair]:
  made: dict[int, tuple[Any, Conv]] = {}
  pairs: dict[str, _Pair] = {}

  def note(call, args, kwargs, context):
    module, y = context.module, call(*args, **kwargs)
    if context.method_name != '__call__':
      return y
    if isinstance(module, BatchNorm) and id(args[0]) in made:
      conv = made[id(args[0])][1]
      pairs['/'.join(conv.path)] = _Pair(conv.path, module.path, conv.dtype)
    if isinstance(module, Conv):
      y = checkpoint_name(y, '/'.join(module.path))
      # The value is kept as well: an id is of what exists alone.
      made[id(y)] = y, module
    return y

  with plain_forms(), nn.intercept_methods(note):
    jaxpr = jax.make_jaxpr(run)(variables, x).jaxpr
  read = collections.Counter(
    id(v) for v in [*jaxpr.outvars, *(v for e in jaxpr.eqns for v in e.invars)]
  )
  once = {
    eqn.params['name']
    for eqn in jaxpr.eqns
    if eqn.primitive.name == 'name' and read[id(eqn.outvars[0])] == 1
  }
  return [pair for name, pair in pairs.items() if name in once]
