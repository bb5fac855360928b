"""NNX modules as parts of a BlockNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lit_jax
from lit_jax import BlockNet, blocks, layers
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.networks.nnx_part import nnx_part, nnx_variables
from lit_jax.objectives import Objective
from lit_jax.runs.phases import Phase

CLASSES, SHAPE = 3, (4, 4, 2)


class Layers(nnx.Module):
  """Convolution, norm and ReLU, as often as is asked for."""

  def __init__(self, inputs, count=1, *, rngs):
    conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
    sizes = [inputs, *[3] * count]
    self.convs = nnx.List(
      [conv(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    )
    self.norms = nnx.List([nnx.BatchNorm(3, rngs=rngs) for _ in range(count)])

  def __call__(self, h):
    for conv, norm in zip(self.convs, self.norms, strict=True):
      h = nnx.relu(norm(conv(h)))
    return h


class Head(nnx.Module):
  def __init__(self, rngs):
    self.dense = nnx.Linear(3, CLASSES, rngs=rngs)
    # A constant is no variable.
    self.scale = jnp.float32(2)

  def __call__(self, h):
    return self.scale * self.dense(h.mean((1, 2)))


def network(depth):
  return BlockNet(
    nnx_part(Layers, 2),
    (nnx_part(Layers, 3, count=depth), nnx_part(Layers, 3, count=depth)),
    nnx_part(Head),
    jax.ShapeDtypeStruct(SHAPE, jnp.float32),
  )


def images(count):
  rng = np.random.default_rng(0)
  return rng.normal(size=(count, *SHAPE)).astype(np.float32)


def modules(net, variables):
  """The parts as NNX has them, with those variables."""
  result = []
  for name, part in zip(
    net.parts, (net.stem, *net.blocks, net.head), strict=True
  ):
    rngs = {'rngs': nnx.Rngs(1)}
    module = part.make(*part.args, **part.kwargs, **rngs)
    for path, own in nnx.iter_graph(module):
      kinds = {nnx.Param: 'params', nnx.BatchStat: 'batch_stats'}
      if type(own) in kinds:
        tree = variables[kinds[type(own)]][name]
        own[...] = functools.reduce(lambda t, key: t[str(key)], path, tree)
    result.append(module)
  return nnx.Sequential(*result)


def close(a, b):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), a, b
  )


def test_variables_are_plain_arrays_in_two_collections():
  variables = blocks.init(network(2), jax.random.key(0))
  assert set(variables) == {'params', 'batch_stats'}
  assert set(variables['params']) == {'stem', 'blocks_0', 'blocks_1', 'head'}
  assert set(variables['params']['blocks_0']['convs']) == {'0', '1'}
  assert set(variables['batch_stats']['stem']['norms']['0']) == {'mean', 'var'}
  for leaf in jax.tree.leaves(
    variables, is_leaf=lambda x: not isinstance(x, dict)
  ):
    assert isinstance(leaf, jax.Array)
  kernels = [
    variables['params'][f'blocks_{i}']['convs']['0']['kernel'] for i in (0, 1)
  ]
  assert not (kernels[0] == kernels[1]).all()


@pytest.mark.slow
def test_values_gradients_and_statistics_are_those_of_the_modules():
  net, x = network(1), images(6)
  variables = blocks.init(net, jax.random.key(0))
  own = modules(net, variables)
  jax.tree.map(
    np.testing.assert_array_equal, nnx_variables(*own.layers), variables
  )
  own.eval()
  close(net.apply(variables, x)[0], own(x))

  @jax.jit
  def loss(params):
    (output, _), new = net.apply(
      variables | {'params': params}, x, train=True, mutable=['batch_stats']
    )
    return jnp.square(output).sum(), new['batch_stats']

  own.train()
  wanted = nnx.grad(lambda own: jnp.square(own(x)).sum())(own)
  found, statistics = jax.grad(loss, has_aux=True)(variables['params'])
  close(
    found['blocks_0']['convs']['0']['kernel'],
    wanted['layers'][1]['convs'][0]['kernel'][...],
  )
  close(
    found['head']['dense']['bias'], wanted['layers'][3]['dense']['bias'][...]
  )
  for i, part in enumerate(('stem', 'blocks_0', 'blocks_1')):
    mean = own.layers[i].norms[0].mean[...]
    close(statistics[part]['norms']['0']['mean'], mean)


def test_one_part_trains_alone():
  net, x = network(1), images(4)
  variables = blocks.init(net, jax.random.key(0))
  _, new = net.apply(variables, x, train={'blocks_1'}, mutable=['batch_stats'])
  for part, old in variables['batch_stats'].items():
    mean = new['batch_stats'][part]['norms']['0']['mean']
    assert (mean == old['norms']['0']['mean']).all() == (part != 'blocks_1')


def test_devices_share_the_statistics():
  net, x = network(1), images(4)
  variables = blocks.init(net, jax.random.key(0))
  assert layers.unshared_statistics(lambda: blocks.shapes(net)) == {}

  def run(x):
    with layers.shared_statistics('data'):
      return net.apply(variables, x, train=True, mutable=['batch_stats'])

  (outputs, _), new = jax.pmap(run, 'data')(x.reshape(2, 2, *SHAPE))
  (output, _), wanted = net.apply(
    variables, x, train=True, mutable=['batch_stats']
  )
  close(outputs.reshape(output.shape), output)
  close(jax.tree.map(lambda leaf: leaf[0], new), wanted)


class OwnNorm(nnx.Module):
  def __init__(self):
    self.mean = nnx.BatchStat(jnp.zeros(3))

  def __call__(self, h):
    return h - self.mean[...][None, None, None]


class Odd(nnx.Module):
  """Keeps or does what a part cannot."""

  def __init__(self, kind, rngs):
    self.norm = OwnNorm() if kind == 'norm' else None
    self.cache = nnx.Cache(jnp.zeros(2)) if kind == 'cache' else None
    self.drop = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, h):
    return self.drop(self.norm(h) if self.norm else h)


def odd(kind):
  net = network(1)
  return net.clone(blocks=(nnx_part(Odd, kind),))


def test_statistics_that_are_not_shared_are_named():
  found = layers.unshared_statistics(lambda: blocks.shapes(odd('norm')))
  assert found == {'blocks_0/norm': 'OwnNorm'}


def test_variables_of_another_kind_are_refused():
  with pytest.raises(UserError, match='cache of Odd is a Cache, and') as caught:
    blocks.shapes(odd('cache'))
  assert '\n' not in str(caught.value)


def test_arguments_that_cannot_be_hashed_are_refused():
  with pytest.raises(UserError, match='argument of Layers cannot be hashed'):
    nnx_part(Layers, 2, count=[1])


def test_a_function_may_make_the_module():
  def two(rngs):
    layers = [nnx.Linear(3, 3, rngs=rngs) for _ in range(2)]
    return nnx.Sequential(*layers, nnx.relu)

  part = nnx_part(two)
  variables = part.init(jax.random.key(0), jnp.ones((2, 3)))
  assert set(variables['params']['layers']) == {'0', '1'}
  assert part.apply(variables, jnp.ones((2, 3))).shape == (2, 3)


def test_dropout_in_training_is_refused():
  net, x = odd(''), images(2)
  variables = blocks.init(net, jax.random.key(0))
  net.apply(variables, x)
  for apply in (
    net.apply,
    jax.jit(net.apply, static_argnames=('train', 'mutable')),
  ):
    with pytest.raises(UserError, match='blocks_0: Odd draws random') as caught:
      apply(variables, x, train=True, mutable='batch_stats')
    assert '\n' not in str(caught.value)


@pytest.mark.usefixtures('quick')
@pytest.mark.slow
def test_nnx_modules_are_compressed_and_loaded_again(tmp_path):
  x = images(24)
  y = np.random.default_rng(0).integers(0, CLASSES, 24, np.int32)
  teacher, student = network(2), network(1)
  assert teacher == network(2) and hash(teacher) == hash(network(2))
  results = lit_jax.compress(
    teacher,
    student,
    (x[:16], y[:16]),
    (x[16:], y[16:]),
    tmp_path,
    teacher_variables=blocks.init(teacher, jax.random.key(0)),
    batch_size=8,
    phases=(Phase('lit', Objective(0.9, 0.5, 4), 1, 0.05),),
  )
  assert [row['depth'] for row in results['rows']] == [6, 4]
  _, variables = saved.load(tmp_path / 'lit' / 'student', student)
  own = modules(student, variables)
  own.eval()
  right = (own(x[16:]).argmax(-1) == y[16:]).mean()
  assert results['rows'][1]['accuracy'] == right
