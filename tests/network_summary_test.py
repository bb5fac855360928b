"""Costs worked out by hand on tiny networks, and the latency's basics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from lit_jax import blocks, models
from lit_jax.errors import UserError
from lit_jax.models import resnet
from lit_jax.networks import latency, summary


class Part(nn.Module):
  """Any function of (module, input) as a part of a network."""

  body: Callable[[nn.Module, jax.Array], Any]

  @nn.compact
  def __call__(self, x, train=False):
    del train
    return self.body(self, x)


def _same(module, x):
  return x


def _conv(
  x, features, size=3, strides=1, groups=1, bias=False, padding: Any = 'SAME'
):
  return nn.Conv(
    features,
    (size, size),
    strides,
    padding,
    feature_group_count=groups,
    use_bias=bias,
  )(x)


def _net(*bodies, shape=(8, 8, 4)):
  """A network of these blocks between an empty stem and an empty head."""
  parts = tuple(Part(body) for body in bodies)
  example = jax.ShapeDtypeStruct(shape, jnp.float32)
  return blocks.BlockNet(Part(_same), parts, Part(_same), example)


def _block(body, shape=(8, 8, 4)):
  return summary.summary(_net(body, shape=shape)).parts['blocks_0']


@pytest.mark.parametrize(
  ('body', 'parameters', 'macs', 'shape'),
  [
    # Output 8 x 8 x 6, each of 3 x 3 x 4 terms; 6 biases.
    (lambda m, x: _conv(x, 6, bias=True), 222, 384 * 36, (8, 8, 6)),
    # A stride of 2 leaves 4 x 4 outputs.
    (lambda m, x: _conv(x, 6, strides=2), 216, 96 * 36, (4, 4, 6)),
    # In 2 groups each output has 2 input channels, in 4 groups one.
    (lambda m, x: _conv(x, 6, groups=2), 108, 384 * 18, (8, 8, 6)),
    (lambda m, x: _conv(x, 4, groups=4), 36, 256 * 9, (8, 8, 4)),
    # Without padding 6 x 6 outputs are left.
    (lambda m, x: _conv(x, 5, padding='VALID'), 180, 180 * 36, (6, 6, 5)),
    # A dense layer over the channels of each of 64 pixels.
    (lambda m, x: nn.Dense(7)(x), 35, 64 * 7 * 4, (8, 8, 7)),
    (lambda m, x: nn.Dense(3)(x.mean((1, 2))), 15, 12, (3,)),
  ],
)
def test_counts_one_layer(body, parameters, macs, shape):
  assert _block(body) == summary.Part(1, parameters, macs, shape)


def test_reads_the_kernel_layout():
  def channels_first(module, x):
    kernel = module.param('kernel', nn.initializers.ones, (6, 4, 3, 5))
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'OIHW', 'NHWC')
    )

  assert _block(channels_first).macs == 8 * 8 * 6 * 3 * 5 * 4


def test_counts_a_batched_product():
  def attend(module, x):
    x = x.reshape(1, 64, 4)
    weights = jax.nn.softmax(jnp.einsum('bqc,bkc->bqk', x, x))
    return jnp.einsum('bqk,bkc->bqc', weights, x)

  assert _block(attend) == summary.Part(2, 0, 2 * 64 * 64 * 4, (64, 4))


def test_a_shortcut_adds_macs_but_no_depth():
  def residual(module, x):
    return _conv(_conv(x, 6), 6) + _conv(x, 6, size=1)

  macs = 64 * 6 * (9 * 4 + 9 * 6 + 4)
  assert _block(residual) == summary.Part(2, 564, macs, (8, 8, 6))


def test_each_output_of_a_jitted_function_keeps_its_own_path():
  @jax.jit
  def two(x, w):
    return x @ w, x

  def body(module, x):
    w = module.param('w', nn.initializers.ones, (4, 4))
    long, short = two(x, w)
    return long + two(short, w)[0]

  assert _block(body).depth == 1


def _weight(module):
  return module.param('w', nn.initializers.ones, (4, 4))


def _scan(module, x):
  w = _weight(module)
  x, _ = jax.lax.scan(lambda h, _: (h @ w, None), x, length=3)
  return x


def _while(module, x):
  w = _weight(module)
  return jax.lax.while_loop(lambda h: h.sum() > 9, lambda h: h @ w, x)


def _cond(module, x):
  w = _weight(module)
  return jax.lax.cond(x.sum() > 0, lambda h: h @ w @ w, lambda h: h @ w, x)


def _remat(module, x):
  w = _weight(module)
  return jax.checkpoint(lambda h: h @ w)(x)


@jax.custom_vjp
def _product(x, w):
  return x @ w


_product.defvjp(lambda x, w: (x @ w, None), lambda _, dy: (dy, dy))


@jax.custom_jvp
def _other_product(x, w):
  return jax.jit(jnp.matmul)(x, w)


_other_product.defjvp(lambda p, t: (_other_product(*p), t[0]))


@pytest.mark.parametrize(
  ('body', 'products'),
  [
    (_scan, 3),
    (_while, 1),
    (_cond, 2),
    (_remat, 1),
    (lambda m, x: _product(x, _weight(m)), 1),
    (lambda m, x: _other_product(x, _weight(m)), 1),
  ],
)
def test_looks_into_nested_functions(body, products):
  part = _block(body)
  assert (part.depth, part.macs) == (products, products * 64 * 4 * 4)


@pytest.mark.parametrize('output, depth', [(0, 1), (1, 0), (2, 2)])
def test_each_output_of_a_scan_keeps_its_own_path(output, depth):
  # Two constants, two values carried, one input and one output.
  def body(module, x):
    w = _weight(module)
    v = w + 1.0

    def step(carry, row):
      h, plain = carry
      return (h + row @ w, plain + row), row @ v @ w

    rows = jnp.moveaxis(x, 1, 0)
    carry, out = jax.lax.scan(step, (rows[0], rows[0]), rows)
    return (*carry, out)[output]

  part = _block(body)
  assert part.depth == depth
  assert part.macs == 3 * 64 * 4 * 4


def test_leaves_out_what_only_parameters_enter():
  def factored(module, x):
    return x @ (_weight(module) @ _weight_b(module))

  def _weight_b(module):
    return module.param('b', nn.initializers.ones, (4, 4))

  assert _block(factored) == summary.Part(1, 32, 64 * 16, (8, 8, 4))


def test_batch_statistics_are_no_parameters():
  def normalised(module, x):
    return nn.BatchNorm(use_running_average=True)(x)

  assert _block(normalised) == summary.Part(0, 8, 0, (8, 8, 4))


@pytest.mark.parametrize('family', ['resnet', 'resnext'])
def test_parts_add_up_to_the_whole(family):
  net = getattr(resnet, family)(8, shortcut='conv')
  whole = summary.summary(net)
  parts = whole.parts.values()
  assert list(whole.parts) == [
    'stem',
    'blocks_0',
    'blocks_1',
    'blocks_2',
    'head',
  ]
  for name in ('depth', 'parameters', 'macs'):
    assert getattr(whole, name) == sum(getattr(part, name) for part in parts)
  shapes = blocks.cut_shapes(net)
  assert {k: part.output_shape for k, part in whole.parts.items()} == shapes


def test_resnet_20():
  cost = summary.summary(resnet.resnet(20))
  assert (cost.depth, cost.parameters) == (20, 269_722)
  # 3x3 convolutions of 16, 32 and 64 channels have equal costs, save the
  # first, which has 3 input channels, and the two with half their inputs.
  full = 32 * 32 * 16 * 16 * 9
  assert cost.macs == 16 * full + full + 32 * 32 * 16 * 3 * 9 + 640
  assert cost.parts['blocks_1'].output_shape == (16, 16, 32)


def test_resnet_20_with_convolutions_as_shortcuts():
  cost = summary.summary(resnet.resnet(20, shortcut='conv'))
  # Two 1x1 convolutions of 16 x 32 and 32 x 64, and their batch norms.
  more = 16 * 32 + 32 * 64 + 2 * (32 + 64)
  assert (cost.depth, cost.parameters) == (20, 269_722 + more)


def test_prints_a_table():
  text = str(summary.summary(resnet.resnet(8)))
  lines = text.splitlines()
  assert lines[0].split() == ['Part', 'Output', 'Depth', 'Parameters', 'MACs']
  assert '16 x 16 x 32' in text
  assert lines[-1].split()[:2] == ['total', '8']
  assert max(map(len, lines)) <= 80


def test_latency_is_a_time():
  net = _net(lambda m, x: _conv(x, 4))
  variables = blocks.init(net, jax.random.key(0))
  assert 0 < latency.latency_ms(net, variables, 2) < 1e4


@pytest.mark.parametrize(('batch', 'repeats'), [(0, 5), (1, 0)])
def test_latency_rejects_counts_below_one(batch, repeats):
  with pytest.raises(UserError, match='at least 1'):
    latency.latency_ms(_net(_same), {}, batch, repeats)


@pytest.mark.parametrize(
  'family, depth, macs',
  # In the papers' millions for 32x32 images (shortcut convolutions included).
  [('resnet', 110, 253e6), ('resnext', 20, 774e6)],
)
def test_fast_forms_of_a_cpu_count_no_more(family, depth, macs):
  spec = {'family': family, 'depth': depth, 'input_shape': [32, 32, 3]}
  found = summary.summary(models.build(spec))
  assert found.macs == pytest.approx(macs, rel=2e-3)
