"""A Flax module cut into a BlockNet computes what it did before."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lit_jax
from lit_jax import Objective, blocks, layers
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.runs.phases import Phase

CLASSES = 3


class Unit(nn.Module):
  """Two convolutions beside a shortcut."""

  features: int

  @nn.compact
  def __call__(self, x, train):
    norm = functools.partial(nn.BatchNorm, use_running_average=not train)
    y = nn.relu(norm()(nn.Conv(self.features, (3, 3), use_bias=False)(x)))
    y = norm()(nn.Conv(self.features, (3, 3), use_bias=False)(y))
    if x.shape != y.shape:
      x = norm(name='ShortcutNorm')(nn.Conv(self.features, (1, 1))(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
  """In compact style; nothing in it knows of stem, blocks and head."""

  units: list[int]
  unit: type[nn.Module] = Unit

  @nn.compact
  def __call__(self, x, train=True):
    x = nn.Conv(4, (3, 3), name='conv_init')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    x = nn.max_pool(x, (2, 2), (2, 2))
    for stage, count in enumerate(self.units):
      for i in range(count):
        x = self.unit(4 * 2**stage, name=f'stage_{stage}_{i}')(x, train)
    return nn.Dense(CLASSES)(x.mean((1, 2)))


class Layer(nn.Module):
  """Of a transformer."""

  def setup(self):
    self.norms = [nn.LayerNorm() for _ in range(2)]
    self.attention = nn.MultiHeadDotProductAttention(2)
    self.wide, self.narrow = nn.Dense(16), nn.Dense(8)

  def __call__(self, h, deterministic):
    y = self.norms[0](h)
    h = h + self.attention(y, y, deterministic=deterministic)
    return h + self.narrow(nn.gelu(self.wide(self.norms[1](h))))


class Encoder(nn.Module):
  count: int

  def setup(self):
    self.layers = [Layer() for _ in range(self.count)]
    self.norm = nn.LayerNorm()

  def __call__(self, h, deterministic):
    for layer in self.layers:
      h = layer(h, deterministic)
    return self.norm(h)


class Transformer(nn.Module):
  """In setup style; it is told the contrary of `train`."""

  count: int

  def setup(self):
    self.embed = nn.Embed(11, 8)
    shape, draw = (1, 6, 8), nn.initializers.normal(0.5)
    self.position = self.param('position', draw, shape)
    self.encoder, self.classify = Encoder(self.count), nn.Dense(CLASSES)

  def __call__(self, ids, deterministic=True):
    h = self.encoder(self.embed(ids) + self.position, deterministic)
    return self.classify(h.mean(1))


IMAGE = jax.ShapeDtypeStruct((8, 8, 2), jnp.float32)
TEXT = jax.ShapeDtypeStruct((6,), jnp.int32)
VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)


def resnet(depth):
  module = ResNet([depth, depth])
  at = [f'stage_{i}_{depth - 1}' for i in range(2)]
  return module, lit_jax.cut(module, at, IMAGE), 'train'


def transformer(depth):
  module = Transformer(3 * depth)
  at = [f'encoder/layers_{i * depth + depth - 1}' for i in range(3)]
  net = lit_jax.cut(module, at, TEXT, 'not deterministic')
  return module, net, 'deterministic'


def inputs(net, count=4):
  rng = np.random.default_rng(0)
  if net.example.dtype == jnp.int32:
    return rng.integers(0, 11, (count, *net.example.shape), np.int32)
  return rng.normal(size=(count, *net.example.shape)).astype(np.float32)


def drawn(module, x, seed=0):
  """Variables of which none is all 0 or all 1."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    spread = (2 / leaf.size * leaf.shape[-1]) ** 0.5 if leaf.ndim > 1 else 0.3
    middle = 1 if path[-1].key in ('scale', 'var') else 0
    return np.float32(middle + spread * rng.uniform(-1, 1, leaf.shape))

  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  return jax.tree_util.tree_map_with_path(draw, shapes)


def equal(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


both = pytest.mark.parametrize('network', [resnet, transformer])


@both
def test_values_are_those_of_the_module(network):
  module, net, name = network(2)
  x = inputs(net)
  variables = drawn(module, x)
  cut = lit_jax.cut_variables(net, variables)
  assert set(cut['params']) == set(net.parts)
  output, irs = net.apply(cut, x)
  equal(output, module.apply(variables, x, **{name: name != 'train'}))
  assert len(irs) == len(net.parts) - 1
  equal(lit_jax.join_variables(net, cut), variables)


@both
def test_gradients_and_statistics_are_those_of_the_module(network):
  module, net, name = network(1)
  x = inputs(net)
  variables = drawn(module, x)
  cut = lit_jax.cut_variables(net, variables)
  told = {name: name == 'train'}

  @jax.jit
  def own(params):
    output, new = module.apply(
      variables | {'params': params}, x, **told, mutable=['batch_stats']
    )
    return jnp.square(output).sum(), new

  @jax.jit
  def ours(params):
    (output, _), new = net.apply(
      cut | {'params': params}, x, train=True, mutable=['batch_stats']
    )
    return jnp.square(output).sum(), new

  wanted, statistics = jax.grad(own, has_aux=True)(variables['params'])
  found, new = jax.grad(ours, has_aux=True)(cut['params'])
  joined = lit_jax.join_variables(net, {'params': found} | new)
  equal(joined, {'params': wanted} | statistics)


def test_names_below_a_part_are_the_modules_own():
  _, net, _ = resnet(2)
  shapes = blocks.shapes(net)
  assert set(shapes['params']['stem']) == {
    'conv_init', 'BatchNorm_0', 'stage_0_0', 'stage_0_1'
  }  # fmt: skip
  assert set(shapes['params']['blocks_0']['stage_1_0']) == {
    'BatchNorm_0', 'BatchNorm_1', 'Conv_0', 'Conv_1', 'Conv_2', 'ShortcutNorm'
  }  # fmt: skip
  assert set(shapes['params']['head']) == {'Dense_0'}
  assert set(shapes['batch_stats']) == {'stem', 'blocks_0'}


@both
def test_a_part_reads_its_own_variables(network):
  """What a part puts out changes with each of its variables, with no other."""
  module, net, _ = network(1)
  x = inputs(net)
  cut = lit_jax.cut_variables(net, drawn(module, x))
  run = jax.jit(net.apply)
  output, irs = run(cut, x)
  for index, part in enumerate(net.parts):
    changed = {
      collection: tree
      | (
        {part: jax.tree.map(lambda v: v * v, tree[part])}
        if part in tree
        else {}
      )
      for collection, tree in cut.items()
    }
    now, others = run(changed, x)
    for i, (a, b) in enumerate(
      zip((*irs, output), (*others, now), strict=True)
    ):
      assert bool((a == b).all()) == (i < index)


def test_statistics_are_updated_part_by_part():
  module, net, _ = resnet(1)
  x = inputs(net)
  cut = lit_jax.cut_variables(net, drawn(module, x))
  _, new = net.apply(cut, x, train={'blocks_0'}, mutable=['batch_stats'])
  for part, old in cut['batch_stats'].items():
    same = jax.tree.leaves(
      jax.tree.map(
        lambda a, b: bool((a == b).all()), old, new['batch_stats'][part]
      )
    )
    assert not any(same) if part == 'blocks_0' else all(same)


@both
def test_a_block_runs_on_the_teachers_ir(network):
  module, net, _ = network(2)
  _, small, _ = network(1)
  lit_jax.check_pair(net, small)
  x = inputs(net)
  _, irs = net.apply(lit_jax.cut_variables(net, drawn(module, x)), x)
  own = blocks.init(small, jax.random.key(0))
  block = jax.jit(lambda own, h: small.apply(own, h, 0, method='block'))
  for batch in (1, 4):
    assert block(own, irs[0][:batch]).shape == irs[1][:batch].shape
  # Also in another dtype than the module has there.
  assert block(own, irs[0].astype(jnp.bfloat16)).shape == irs[1].shape


@both
def test_networks_are_equal_where_module_and_cuts_are(network):
  _, net, _ = network(1)
  _, same, _ = network(1)
  _, other, _ = network(2)
  assert net == same and hash(net) == hash(same)
  assert net != other


@pytest.mark.slow
def test_transformations_of_a_cut_network():
  module, net, _ = resnet(1)
  x = inputs(net)
  members = [drawn(module, x, seed) for seed in range(2)]
  cut = [lit_jax.cut_variables(net, own) for own in members]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cut)
  outputs, _ = jax.jit(jax.vmap(net.apply, (0, None)))(stacked, x)
  for output, own in zip(outputs, members, strict=True):
    np.testing.assert_allclose(
      output, module.apply(own, x, train=False), rtol=1e-4
    )


def test_devices_share_the_batch_statistics():
  module, net, _ = resnet(1)
  x = inputs(net)
  cut = lit_jax.cut_variables(net, drawn(module, x))
  assert layers.unshared_statistics(lambda: blocks.shapes(net)) == {}

  def run(x):
    with layers.shared_statistics('data'):
      return net.apply(cut, x, train=True, mutable=['batch_stats'])

  halves = x.reshape(2, 2, *x.shape[1:])
  (outputs, _), new = jax.pmap(run, 'data')(halves)
  (output, _), wanted = net.apply(cut, x, train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(outputs.reshape(output.shape), output, rtol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-6),
    new, wanted,
  )  # fmt: skip


@pytest.mark.usefixtures('quick')
@pytest.mark.slow
def test_a_cut_module_is_compressed(tmp_path):
  module, teacher, _ = resnet(2)
  small, student, _ = resnet(1)
  images = inputs(teacher, 40)
  labels = np.random.default_rng(1).integers(0, CLASSES, 40, np.int32)
  trained = drawn(module, images[:1])
  results = lit_jax.compress(
    teacher,
    student,
    (images[:32], labels[:32]),
    (images[32:], labels[32:]),
    tmp_path,
    teacher_variables=lit_jax.cut_variables(teacher, trained),
    batch_size=8,
    phases=(Phase('lit', Objective(0.9, 0.5, 4), 1, 0.05),),
  )
  rows = results['rows']
  logits = module.apply(trained, images[32:], train=False)
  assert rows[0]['accuracy'] == (logits.argmax(-1) == labels[32:]).mean()
  assert [row['depth'] for row in rows] == [1 + 8 + 1, 1 + 4 + 1]
  # The student's variables are those of the small module.
  _, variables = saved.load(tmp_path / 'lit' / 'student', student)
  own = lit_jax.join_variables(student, variables)
  logits = small.apply(own, images[32:], train=False)
  assert rows[1]['accuracy'] == (logits.argmax(-1) == labels[32:]).mean()


def test_a_loop_of_ones_own():
  module, teacher, _ = transformer(2)
  _, student, _ = transformer(1)
  x, y = inputs(teacher), np.arange(4) % CLASSES
  targets = teacher.apply(lit_jax.cut_variables(teacher, drawn(module, x)), x)
  own = blocks.init(student, jax.random.key(0))

  @jax.jit
  def loss(params):
    now = own | {'params': params}
    return lit_jax.lit_loss(Objective(0.9, 0.5, 4), student, now, x, y, targets)

  grads, (_, terms) = jax.grad(loss, has_aux=True)(own['params'])
  assert {'ir/blocks_0', 'ir/blocks_1'} <= terms.keys()
  assert all(np.abs(leaf).sum() > 0 for leaf in jax.tree.leaves(grads['head']))


def test_a_cut_within_another():
  module = Transformer(2)
  net = lit_jax.cut(
    module, ['embed', 'encoder/layers_1', 'encoder'], TEXT, 'not deterministic'
  )
  x = inputs(net)
  own = drawn(module, x)
  output, _ = net.apply(lit_jax.cut_variables(net, own), x)
  equal(output, module.apply(own, x))
  params = blocks.shapes(net)['params']
  assert set(params['blocks_1']['encoder']) == {'norm'}
  assert set(params['blocks_0']) == {'position', 'encoder'}


def test_submodules_that_are_given_as_attributes():
  dense = [nn.Dense(4) for _ in range(3)]
  module = nn.Sequential([dense[0], nn.relu, dense[1], nn.relu, dense[2]])
  net = lit_jax.cut(module, ['layers_0', 'layers_2'], VECTOR, None)
  x = inputs(net)
  own = drawn(module, x)
  output, _ = net.apply(lit_jax.cut_variables(net, own), x)
  equal(output, module.apply(own, x))


class Folding(nn.Module):
  """Of convolutions and norms that can be folded."""

  @nn.compact
  def __call__(self, x, train=False):
    for name in ('first', 'inner', 'second'):
      x = layers.Conv(4, (3, 3), name=name)(x)
      x = nn.relu(layers.BatchNorm()(x, train))
    return x.mean((1, 2))


def test_norms_are_folded_within_a_part():
  net = lit_jax.cut(Folding(), ['first', 'second'], IMAGE)
  x = inputs(net)
  variables = lit_jax.cut_variables(net, drawn(Folding(), x))
  folded = layers.fold(lambda v, x: net.apply(v, x)[0], variables, x)
  # The others read an IR.
  assert set(folded['params']['blocks_0']['inner']) == {'folded'}
  assert set(folded['params']['stem']['first']) == {'kernel'}
  wanted, _ = net.apply(variables, x)
  np.testing.assert_allclose(net.apply(folded, x)[0], wanted, rtol=1e-4)


# What is no chain.


class Chain(nn.Module):
  """Three layers, and whatever goes wrong between them."""

  fault: str = ''

  @nn.compact
  def __call__(self, x, train=False):
    fault = self.fault
    first, second = nn.Dense(4, name='first'), nn.Dense(4, name='second')
    a = first(x)
    if fault == 'twice' or fault == 'again' and train:
      a = first(a)
    if fault == 'inside':
      a = nn.remat(Inner)(name='remat')(a)
    if fault == 'scan':
      scan = nn.scan(
        Step, variable_axes={'params': 0}, split_rngs={'params': True}, length=2
      )
      a, _ = scan(name='scan')(a, None)
    b = a if fault == 'around' and train else second(nn.relu(a))
    if fault == 'pair':
      b, _ = Pair(name='pair')(b)
    if fault == 'example':
      b = b + x
    if fault == 'mask':
      b = jnp.where(x > 0, b, 0)
    if fault == 'ir':
      b = nn.Dense(4, name='third')(b + a)
    if fault == 'inner':
      b = nn.Dense(4, name='third')(b + nn.relu(a))
    if fault == 'tied':
      b = b @ first.variables['params']['kernel']
    if fault == 'dropout':
      b = nn.Dropout(0.5, deterministic=not train)(b)
    if fault == 'cache':
      self.variable('cache', 'seen', jnp.zeros, ())
    if fault == 'batch' and len(x) > 2:
      b = b + x
    return nn.Dense(3)(b)


class Inner(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(4, name='dense')(x)


class Step(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return nn.Dense(4, name='dense')(x), None


class Pair(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x, x


@pytest.mark.parametrize(
  'fault, at, words',
  [
    ('example', 'first second', "at second: head reads the module's input"),
    ('mask', 'first second', "at second: head reads the module's input"),
    ('ir', 'first second third', 'blocks_1 reads what first returned'),
    ('inner', 'first second third', 'blocks_1 reads what first returned'),
    ('twice', 'first second', 'first is called 2 times'),
    ('again', 'first second', 'first/bias is read in stem and in blocks_0'),
    ('around', 'first second', 'does not reach second when it trains'),
    ('tied', 'first second', 'params/first/kernel is read in stem and in head'),
    ('dropout', 'first second', 'head cannot run by itself: it draws random'),
    ('cache', 'first second', 'keeps cache, and a BlockNet has'),
    ('pair', 'first pair', 'pair returns no single array'),
    ('scan', 'first scan/dense', 'scan/dense runs within a scan'),
    ('inside', 'remat/dense second', 'remat/dense runs within a scan'),
    ('', 'first secund', "calls no 'secund'; perhaps 'second'; its submodules"),
    ('', 'second first', 'in the order first, second; name them in it'),
    ('', 'first', 'name at least two submodules'),
    ('', 'first first', 'name at least two submodules, each once'),
  ],
)
def test_modules_that_are_no_chain(fault, at, words):
  with pytest.raises(UserError) as caught:
    lit_jax.cut(Chain(fault), at.split(), VECTOR)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (
      dict(train='training'),
      "train is 'training', and a Chain is called as (x, train)",
    ),
    (dict(train=True), 'train is True'),
    (dict(train='no train'), "train is 'no train'"),
    (
      dict(example=jax.ShapeDtypeStruct((), jnp.float32)),
      'cannot read its exa',
    ),
    (dict(module=Chain), 'a type cannot be cut'),
    (dict(module=Chain(np.ones(2))), 'cannot be hashed'),
    (dict(at='first'), 'name at least two'),
    (dict(at=[0, 1]), 'calls no 0;'),
  ],
)
def test_arguments_that_do_not_suit(arguments, words):
  usual = dict(module=Chain(), at=['first', 'second'], example=VECTOR)
  with pytest.raises(UserError) as caught:
    lit_jax.cut(**usual | arguments)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('fault', ['', 'inside', 'scan'])
def test_transformations_within_a_part(fault):
  module = Chain(fault)
  net = lit_jax.cut(module, ['first', 'second'], VECTOR)
  x = inputs(net)
  own = drawn(module, x)
  output, _ = net.apply(lit_jax.cut_variables(net, own), x)
  equal(output, module.apply(own, x))


def test_what_goes_on_in_larger_batches_alone_is_seen():
  net = lit_jax.cut(Chain('batch'), ['first', 'second'], VECTOR)
  variables = blocks.init(net, jax.random.key(0))
  net.apply(variables, jnp.ones((2, 4)))
  with pytest.raises(UserError, match="head reads the module's input"):
    net.apply(variables, jnp.ones((3, 4)))


def test_a_module_that_is_not_told_to_train():
  net = lit_jax.cut(Chain('dropout'), ['first', 'second'], VECTOR, None)
  variables = blocks.init(net, jax.random.key(0))
  module = Chain('dropout')
  x = jnp.ones((2, 4))
  output, _ = net.apply(variables, x, train=True)
  equal(output, module.apply(lit_jax.join_variables(net, variables), x))


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda p: p.pop('first'), 'what was given lacks params/first/'),
    (lambda p: p.update(more=np.ones(2)), 'the module has no params/more'),
    (
      lambda p: p['first'].update(bias=np.ones(2)),
      'params/first/bias has the shape (2,), not (4,)',
    ),
  ],
)
def test_variables_of_another_module(change, words):
  net = lit_jax.cut(Chain(), ['first', 'second'], VECTOR)
  variables = drawn(Chain(), np.ones((1, 4), np.float32))
  change(variables['params'])
  with pytest.raises(UserError) as caught:
    lit_jax.cut_variables(net, variables)
  assert words in str(caught.value)
  with pytest.raises(UserError, match='not the variables of the module'):
    lit_jax.join_variables(net, {'params': {'stem': variables['params']}})


def test_variables_of_a_network_that_was_not_cut():
  part = nn.Dense(3)
  net = lit_jax.BlockNet(part, (part,), part)
  with pytest.raises(UserError, match='was not made by cut'):
    lit_jax.cut_variables(net, {})
