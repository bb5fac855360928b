"""Networks of PyTorch's become ours, with their logits, or are refused."""
# pyright: reportMissingImports=false

import functools
import importlib
import json
import re
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import state_dicts
from flax import traverse_util
from state_dicts import layout, norms

from lit_jax import models
from lit_jax.blocks import shapes
from lit_jax.errors import UserError, reason
from lit_jax.networks import pytorch
from lit_jax.networks.pytorch import Told

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SAID = {'mean': MEAN, 'std': STD}
LOGITS = 1e-4


@pytest.fixture
def save(tmp_path):
  """Writes arrays by name, and texts beside them, as safetensors."""
  return functools.partial(state_dicts.write, tmp_path)


@pytest.fixture
def torch():
  return pytest.importorskip(
    'torch', reason="needs PyTorch: pip install -e '.[torch]'"
  )


def _images(count=3, size=32, seed=9):
  shape = count, size, size, 3
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _logits(network, images):
  net = models.build(network.spec)
  return jax.jit(lambda v, x: net.apply(v, x)[0])(network.variables, images)


def _message(path, **told):
  """The one line that the file is refused with."""
  with pytest.raises(UserError) as caught:
    pytorch.load(path, told=Told(**(SAID | told)))
  words = str(caught.value)
  assert '\n' not in words and len(words) < 600
  assert path.name in words
  return words


@pytest.mark.parametrize(
  'count, shortcut, padding',
  [(1, 'B', None), (2, 'A', 'both'), (2, 'A', 'end')],
)
def test_logits_are_the_oracles(count, shortcut, padding, save):
  state = state_dicts.state(layout(count, shortcut))
  network = pytorch.load(save(state), told=Told(**SAID, padding=padding))
  wanted = state_dicts.oracle(state, count, padding, _images())
  found = _logits(network, _images())
  assert np.abs(wanted).max() > 0.5
  np.testing.assert_allclose(found, wanted, rtol=0, atol=LOGITS)
  if padding:
    # The other side has other logits: it has to be asked for.
    other = {'both': 'end', 'end': 'both'}[padding]
    network = pytorch.load(save(state), told=Told(**SAID, padding=other))
    assert np.abs(_logits(network, _images()) - wanted).max() > 0.01


@pytest.mark.parametrize('padding', ['both', 'end'])
def test_logits_of_bottlenecks_are_the_oracles(padding, save):
  state = state_dicts.state(layout(2, 'A', width=64, inner=4))
  network = pytorch.load(save(state), 'resnext', Told(**SAID, padding=padding))
  assert network.spec['unit'] == 'bottleneck'
  images = _images(2, 8)
  wanted = state_dicts.oracle(state, 2, padding, images)
  found = _logits(network, images)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=LOGITS)


# PyTorch's own.


def _torch_net(torch, count, shortcut, padding='both', head='linear'):
  """A ResNet for CIFAR as the option of He et al. asks, in PyTorch's words."""
  nn = torch.nn
  functional = nn.functional

  def conv(inputs, outputs, size, stride):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

  class Pad(nn.Module):
    def forward(self, x):
      if padding == 'end':
        x = nn.AvgPool2d(1, 2)(x)
        return torch.cat((x, x.mul(0)), 1)
      pad = x.shape[1] // 2
      return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))

  class Unit(nn.Module):
    def __init__(self, inputs, outputs, stride):
      super().__init__()
      self.conv1, self.bn1 = (
        conv(inputs, outputs, 3, stride),
        nn.BatchNorm2d(outputs),
      )
      self.conv2, self.bn2 = (
        conv(outputs, outputs, 3, 1),
        nn.BatchNorm2d(outputs),
      )
      self.shortcut = nn.Sequential()
      if stride == 2 and shortcut == 'A':
        self.shortcut = Pad()
      elif stride == 2:
        self.shortcut = nn.Sequential(
          conv(inputs, outputs, 1, 2), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
      h = functional.relu(self.bn1(self.conv1(x)))
      return functional.relu(self.bn2(self.conv2(h)) + self.shortcut(x))

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1, self.bn1 = conv(3, 16, 3, 1), nn.BatchNorm2d(16)
      for i, width in enumerate((16, 32, 64)):
        stride = 2 if i else 1
        first = Unit(width // stride, width, stride)
        rest = (Unit(width, width, 1) for _ in range(count - 1))
        self.add_module(f'layer{i + 1}', nn.Sequential(first, *rest))
      self.add_module(head, nn.Linear(64, 10))

    def forward(self, x):
      x = functional.relu(self.bn1(self.conv1(x)))
      x = self.layer3(self.layer2(self.layer1(x)))
      return getattr(self, head)(functional.avg_pool2d(x, 8).flatten(1))

  return _drawn(torch, Net())


def _drawn(torch, net):
  """The network with numbers as after some training, in evaluation."""
  known = {
    key: tuple(value.shape)
    for key, value in net.state_dict().items()
    if not key.endswith('num_batches_tracked')
  }
  tensors = {
    k: torch.from_numpy(v) for k, v in state_dicts.state(known).items()
  }
  net.load_state_dict(tensors, strict=False)
  return net.eval()


def _assert_the_same(torch, net, network, images):
  with torch.no_grad():
    wanted = net(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
  found = _logits(network, images)
  assert np.abs(wanted).max() > 0.5
  np.testing.assert_allclose(found, wanted, rtol=0, atol=LOGITS)


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize(
  'shortcut, padding', [('A', 'both'), ('A', 'end'), ('B', None)]
)
def test_logits_are_pytorchs(count, shortcut, padding, torch, tmp_path):
  net = _torch_net(torch, count, shortcut, padding)
  path = tmp_path / 'net.pth'
  torch.save(net.state_dict(), path)
  told = Told(**SAID, depth=6 * count + 2, shortcut=shortcut, padding=padding)
  network = pytorch.load(path, told=told)
  assert network.spec == {
    'family': 'resnet',
    'depth': 6 * count + 2,
    'shortcut': {'A': 'pad', 'B': 'conv'}[shortcut],
    'classes': 10,
    'input_shape': [32, 32, 3],
  }
  _assert_the_same(torch, net, network, _images())


@pytest.mark.parametrize('old', [False, True])
def test_checkpoints_of_pytorch(old, torch, tmp_path):
  net = _torch_net(torch, 1, 'B', head='fc')
  path = tmp_path / 'net.pth'
  state = {f'module.{k}': v for k, v in net.state_dict().items()}
  content = {'epoch': 3, 'state_dict': state, 'best': torch.tensor(0.9)}
  content |= {'mean': list(MEAN), 'std': torch.tensor(STD)}
  torch.save(content, path, _use_new_zipfile_serialization=not old)
  network = pytorch.load(path)
  np.testing.assert_allclose(network.preprocess.mean, MEAN)
  np.testing.assert_allclose(network.preprocess.std, STD, rtol=1e-6)
  _assert_the_same(torch, net, network, _images())


def test_a_network_that_normalises_its_images_itself(save):
  state = state_dicts.state(layout(1, 'B'))
  buffers = {
    'normalize.mean': np.float32(MEAN).reshape(1, 3, 1, 1),
    'normalize.std': np.float32(STD).reshape(1, 3, 1, 1),
  }
  network = pytorch.load(save(state | buffers))
  np.testing.assert_allclose(network.preprocess.mean, MEAN, rtol=1e-6)


def _library(name):
  """A library of networks, or a skipped test where it cannot be imported."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    try:
      return importlib.import_module(name)
    except Exception as error:  # That of another build than PyTorch's own.
      pytest.skip(f'needs {name}: pip install it ({reason(error)})')


def _for_small_images(torch, net):
  """As they are changed for CIFAR: a 3x3 stem, and no pooling after it."""
  net.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
  net.maxpool = torch.nn.Identity()
  return _drawn(torch, net)


@pytest.mark.parametrize(
  'unit, cardinality, base_width',
  [('BasicBlock', 1, 64), ('Bottleneck', 2, 8)],
)
@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_resnets_of_libraries_where_a_family_fits(
  library, unit, cardinality, base_width, torch, tmp_path
):
  module = _library(f'{library}.models.resnet')
  kind, wide = getattr(module, unit), 64 * (1 if unit == 'BasicBlock' else 4)
  if library == 'timm':
    options = dict(cardinality=cardinality, base_width=base_width)
    net = module.ResNet(kind, (2, 1, 1, 1), 10, **options)
  else:
    options = dict(groups=cardinality, width_per_group=base_width)
    net = module.ResNet(kind, [2, 1, 1, 1], **options)
  net.layer4, net.fc = torch.nn.Identity(), torch.nn.Linear(4 * wide, 10)
  net = _for_small_images(torch, net)
  path = tmp_path / 'net.pth'
  torch.save(net.state_dict(), path)
  words = _message(path)
  assert 'its stem is 64 wide, and that of resnet 16 (--family=resnext' in words
  network = pytorch.load(path, 'resnext', Told(**SAID, units=(2, 1, 1)))
  assert network.spec['units'] == [2, 1, 1]
  assert network.spec['cardinality'] == cardinality
  assert network.spec['base_width'] == base_width
  kinds = {'BasicBlock': 'basic', 'Bottleneck': 'bottleneck'}
  assert network.spec['unit'] == kinds[unit]
  _assert_the_same(torch, net, network, _images(2, 16))


# What is refused.


def _imagenet(blocks, stem=7):
  """Some of the shapes that torchvision's networks have."""
  result = {'conv1.weight': (64, 3, stem, stem), **norms('bn1', 64)}
  for block in range(blocks):
    result[f'layer{block + 1}.0.conv1.weight'] = 8, 8, 3, 3
  return result


def test_networks_of_another_kind(save):
  words = _message(save(state_dicts.state(_imagenet(4))))
  assert 'its stem conv1.weight is a convolution of 7x7, and that of' in words
  words = _message(save(state_dicts.state(_imagenet(4, 3))))
  assert 'its blocks are 1, 2, 3, 4, and our ResNets have three, at full' in (
    words
  )
  words = _message(save(state_dicts.state(_imagenet(0, 3))))
  assert 'its blocks are none, and' in words
  wide = save(state_dicts.state(layout(1, 'B', width=32)))
  assert 'its stem is 32 wide, and that of resnet 16; a teacher' in (
    _message(wide)
  )
  more = layout(1, 'B') | {'layer1.0.conv3.weight': (64, 16, 1, 1)}
  assert 'its units are bottlenecks of three convolutions' in _message(
    save(state_dicts.state(more))
  )


def test_unknown_missing_and_misshapen_keys(save):
  state = state_dicts.state(layout(2, 'B'))
  odd = {'layer1.0.se.fc1.weight': np.ones((4, 16), np.float32)}
  words = _message(save(state | odd))
  assert 'has the unknown layer1.0.se.fc1.weight; say by --names' in words
  biased = state | {'layer2.1.conv2.bias': np.ones(32, np.float32)}
  assert 'has the unknown layer2.1.conv2.bias;' in _message(save(biased))
  without = dict(state)
  del without['layer2.0.shortcut.1.running_var'], without['linear.bias']
  words = _message(save(without))
  assert (
    'is read as resnet-14, and lacks layer2.0.shortcut.1.running_var, '
    'linear.bias; give all' in words
  )
  part = save({k: v for k, v in state.items() if not k.startswith('layer3.1.')})
  words = _message(part)
  assert 'units 2,2,1, not equally many; say by --units=2,2,1 that' in words
  words = _message(part, depth=14)
  assert 'depth told as 14, and the file says 12 (its blocks have' in words
  assert 'units told as 2,2,2, and the file says 2,2,1' in (
    _message(part, units=(2, 2, 2))
  )
  few = {k: v for k, v in state.items() if not k.startswith('layer2.0.conv')}
  words = _message(save(few))
  assert 'lacks layer2.0.conv1.weight, layer2.0.conv2.weight; give' in words
  # Of what lacks altogether, the name is torchvision's.
  for part, named in (('conv1', 'conv1'), ('linear', 'fc')):
    few = {k: v for k, v in state.items() if not k.startswith(part)}
    assert f'lacks {named}.' in _message(save(few))
  more = state | {'layer1.0.conv4.weight': np.ones((16, 16, 3, 3), np.float32)}
  assert 'and has besides layer1.0.conv4.weight; give' in _message(save(more))
  other = state | {'layer2.1.conv2.weight': np.ones((32, 16, 3, 3), 'f')}
  assert (
    'layer2.1.conv2.weight has the shape [32, 16, 3, 3], and resnet-14 has '
    '[32, 32, 3, 3] there' in _message(save(other))
  )
  flat = state | {'bn1.weight': np.ones((1, 16), np.float32)}
  words = _message(save(flat))
  assert 'bn1.weight is float32 [1, 16], not floating-point numbers of' in words
  integers = state | {'bn1.weight': np.ones(16, np.int32)}
  assert 'bn1.weight is int32 [16], not floating-point' in (
    _message(save(integers))
  )
  twice = state | {'fc.weight': state['linear.weight']}
  words = _message(save(twice))
  assert 'fc.weight and linear.weight are one part of the network' in words


def test_weights_that_are_no_numbers(save):
  state = state_dicts.state(layout(1, 'B'))
  for value, key, fault in (
    (np.nan, 'layer1.0.conv1.weight', 'holds NaN or infinity'),
    (-1, 'layer3.0.bn2.running_var', 'holds variances below 0'),
  ):
    wrong = state[key].copy()
    wrong.flat[5] = value
    assert f'{key} {fault}' in _message(save(state | {key: wrong}))


def test_what_is_told_only_confirms(save):
  path = save(state_dicts.state(layout(2, 'B')))
  told = Told(**SAID, depth=14, classes=10, shortcut='B', size=16)
  network = pytorch.load(path, told=told)
  assert network.spec['input_shape'] == [16, 16, 3]
  assert 'depth told as 20, and the file says 14' in _message(path, depth=20)
  words = _message(path, classes=100)
  assert 'classes told as 100, and the file says 10;' in words
  words = _message(path, shortcut='A')
  assert 'told as A, and the file says B (layer2.0.shortcut.0.weight)' in words
  assert "unknown shortcut 'C'" in str(_error(path, shortcut='C'))
  assert "unknown padding 'left'" in str(_error(path, padding='left'))
  assert 'option B, which pad nothing' in _message(path, padding='end')
  with pytest.raises(UserError, match="unknown family 'vdcnn'"):
    pytorch.load(path, 'vdcnn')
  path = save(state_dicts.state(layout(2, 'A')))
  words = _message(path, shortcut='B')
  assert 'told as B, and the file says A (no shortcut has weights)' in words
  # Nor is it guessed where option A pads.
  assert 'does not say where their zero channels are; give --padding=both' in (
    _message(path)
  )


def _error(path, **told):
  with pytest.raises(UserError) as caught:
    pytorch.load(path, told=Told(**(SAID | told)))
  return caught.value


def test_a_normalisation_is_asked_for_or_read(save):
  state = state_dicts.state(layout(1, 'B'))
  path = save(state)
  words = _message(path, mean=None)
  assert 'does not say the mean of the images' in words
  assert 'give --mean as in the training code' in words
  assert 'does not say the std' in _message(path, std=None)
  assert 'channels, and mean has 1 numbers' in _message(path, mean=(0.5,))
  assert 'divide by 255' in _message(path, mean=(125.3, 123.0, 113.9))
  assert 'a std of' in _message(path, std=(0.25, 0.0, 0.2))
  assert 'a std of' in _message(path, std=(0.25, float('nan'), 0.2))
  said = {'mean': '[0.49, 0.48, 0.45]', 'std': '0.25,0.24,0.26'}
  path = save(state, said)
  network = pytorch.load(path)
  assert network.preprocess.mean == MEAN
  assert network.preprocess.std == STD
  # What is told is rounded, or contradicts it.
  near = pytorch.load(path, told=Told(mean=(0.4904, 0.48, 0.45)))
  assert near.preprocess.mean == MEAN
  words = _message(path, mean=(0.5, 0.5, 0.5))
  assert 'mean told as [0.5, 0.5, 0.5], and the file says [0.49,' in words
  path = save(state, {'mean': 'grey', 'std': '1'})
  assert "says a mean of ['grey']" in _message(path)


# Names.


def test_every_layout_is_the_same_network(save):
  plain = pytorch.load(
    save(state_dicts.state(layout(1, 'B'))), told=Told(**SAID)
  )
  flat = traverse_util.flatten_dict(plain.variables, sep='/')
  for names in ({'head': 'fc'}, {'beside': 'downsample'}):
    state = state_dicts.state(layout(1, 'B', **names))
    again = pytorch.load(save(state), told=Told(**SAID))
    _assert_equal(again.variables, flat)
  state = state_dicts.state(layout(1, 'B'))
  for prefix in ('module.', 'module._orig_mod.', 'model.'):
    state = {f'{prefix}{k}': v for k, v in state.items()}
    counted = state | {f'{prefix}bn1.num_batches_tracked': np.array(3)}
    again = pytorch.load(save(counted), told=Told(**SAID))
    _assert_equal(again.variables, flat)
    state = {k.removeprefix(prefix): v for k, v in state.items()}


def _assert_equal(variables, flat):
  found = traverse_util.flatten_dict(variables, sep='/')
  assert found.keys() == flat.keys()
  for place, array in flat.items():
    assert found[place].dtype == jnp.float32
    assert np.array_equal(found[place], array), place


def _renamed(state, pairs):
  """The state dict of a network whose parts are called otherwise."""
  result = {}
  for key, value in state.items():
    for theirs, ours in pairs:
      key = re.sub(theirs, ours, key)
    result[key] = value
  return result


OF_FB = (
  (r'^conv1', 'conv_1_3x3'),
  (r'^bn1', 'bn_1'),
  (r'^layer(\d)', r'stage_\1'),
  (r'(conv|bn)1\.', r'\1_a.'),
  (r'(conv|bn)2\.', r'\1_b.'),
  ('linear', 'classifier'),
)


def _of_cv(state):
  """As pytorchcv calls the parts, which counts units from 1."""
  pairs = (
    (r'^conv1', 'features.init_block.conv'),
    (r'^bn1', 'features.init_block.bn'),
    (
      r'^layer(\d)\.(\d)',
      lambda m: f'features.stage{m[1]}.unit{int(m[2]) + 1}',
    ),
    (r'\.conv(\d)\.', r'.body.conv\1.conv.'),
    (r'\.bn(\d)\.', r'.body.conv\1.bn.'),
    (r'shortcut\.0', 'identity_conv.conv'),
    (r'shortcut\.1', 'identity_conv.bn'),
    ('linear', 'output'),
  )
  return _renamed(state, pairs)


OWN = (
  (r'^(conv|bn)1', r'stem.\1'),
  (r'^layer(\d)\.', r'groups.\1.'),
  (r'linear', 'out'),
)
OWN_NAMES = {
  'stem.conv': 'stem/conv',
  'stem.bn': 'stem/norm',
  'groups.{block+1}.{unit}.conv{n}': 'blocks_{block}/units_{unit}/conv{n}',
  'groups.{block+1}.{unit}.bn{n}': 'blocks_{block}/units_{unit}/norm{n}',
  'out': 'head/dense',
}


def test_names_of_pytorchcv(save):
  state = state_dicts.state(layout(2, 'B'))
  plain = pytorch.load(save(state), told=Told(**SAID))
  again = _of_cv(state)
  assert {
    'features.init_block.bn.weight',
    'features.stage3.unit2.body.conv1.conv.weight',
    'features.stage2.unit1.identity_conv.bn.running_var', 'output.bias',
  } < set(again)  # fmt: skip
  again = pytorch.load(save(again), told=Told(**SAID))
  flat = traverse_util.flatten_dict(plain.variables, sep='/')
  _assert_equal(again.variables, flat)


def test_names_of_other_layouts(save, tmp_path):
  told = Told(**SAID, padding='end')
  state = state_dicts.state(layout(2, 'A'))
  plain = pytorch.load(save(state), told=told)
  flat = traverse_util.flatten_dict(plain.variables, sep='/')
  again = pytorch.load(save(_renamed(state, OF_FB)), told=told)
  _assert_equal(again.variables, flat)
  # A layout of one's own is a file of names.
  path, names = save(_renamed(state, OWN)), tmp_path / 'names.json'
  assert 'has the unknown groups.1.0.bn1.bias, ' in _message(path)
  names.write_text(json.dumps(OWN_NAMES))
  own = pytorch.read_names(names)
  _assert_equal(pytorch.load(path, told=told, names=own).variables, flat)
  few = _renamed(state, OWN)
  del few['groups.2.0.conv1.weight']
  with pytest.raises(UserError, match=r'lacks groups\.2\.0\.conv1\.weight;'):
    pytorch.load(save(few), told=told, names=own)


@pytest.mark.parametrize(
  'content, fault',
  [
    ('{', 'the names cannot be read'),
    ('[]', 'holds no names'),
    ('{}', 'holds no names'),
    ('{"a{n}": "stem/conv"}', "'a{n}' stands for 'stem/conv'; write it as"),
    ('{"a": "stem/conv{n}"}', 'with the same names in brackets'),
    ('{"a": 3}', "'a' stands for 3"),
    ('{"a": "stem/other"}', "'a' stands for 'stem/other'"),
  ],
)
def test_names_that_cannot_be_read(content, fault, tmp_path):
  path = tmp_path / 'names.json'
  path.write_text(content)
  with pytest.raises(UserError) as caught:
    pytorch.read_names(path)
  assert fault in str(caught.value) and 'names.json' in str(caught.value)


def test_resnexts_of_the_same_descent(save):
  spec = dict(
    family='resnext', depth=8, shortcut='conv', cardinality=2, base_width=4,
    unit='bottleneck', classes=10, input_shape=[32, 32, 3],
  )  # fmt: skip
  flat = _drawn_of_ours(spec)
  names = dict(zip(_RESNEXT[1], _RESNEXT[0], strict=True))
  state = {}
  for place, array in flat.items():
    part, _, leaf = place.partition('/')[2].rpartition('/')
    unit, _, last = part.rpartition('/')
    block = re.match(r'blocks_(\d)/units_(\d)', unit)
    stage = f'stage_{int(block[1]) + 1}' if block else ''
    module = f'{stage}.{stage}_bottleneck_{block[2]}.' if block else ''
    module += names[last if block else part]
    leaf = {'mean': 'running_mean', 'var': 'running_var', 'bias': 'bias'}.get(
      leaf, 'weight'
    )
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
    state[f'{module}.{leaf}'] = array.transpose(axes)
  network = pytorch.load(save(state), 'resnext', Told(**SAID))
  assert network.spec == spec
  _assert_equal(network.variables, flat)
  grouped = {**spec, 'unit': 'basic', 'shortcut': 'pad'}
  arrays = _drawn_of_ours(grouped)
  with pytest.raises(UserError, match='of its units are grouped, so that'):
    pytorch._padded_on_both_sides('net', arrays, grouped)


_RESNEXT = (
  'conv_1_3x3 bn_1 classifier conv_reduce bn_reduce conv_conv bn conv_expand '
  'bn_expand shortcut.shortcut_conv shortcut.shortcut_bn'.split(),
  'stem/conv stem/norm head/dense conv1 norm1 conv2 norm2 conv3 norm3 '
  'shortcut_conv shortcut_norm'.split(),
)


def _drawn_of_ours(spec):
  """Drawn arrays of a network of ours, by path."""
  tree = traverse_util.flatten_dict(shapes(models.build(spec)), sep='/')
  rng = np.random.default_rng(1)
  return {
    place: rng.uniform(0.5, 1, leaf.shape).astype(np.float32)
    for place, leaf in tree.items()
  }


# Foreign files.


def test_pickles_are_never_executed(torch, tmp_path):
  path, made = tmp_path / 'net.pth', tmp_path / 'made'
  for content in (
    torch.nn.Linear(2, 2),
    {
      'state_dict': {'conv1.weight': torch.ones(1)},
      'args': state_dicts.Writes(made),
    },
  ):
    torch.save(content, path)
    words = _message(path)
    assert 'holds Python objects, which reading would execute' in words
  assert not made.exists()


def test_checkpoints_that_are_no_network(torch, tmp_path):
  path = tmp_path / 'net.pth'
  net = {'a': torch.ones(1)}
  torch.save({'model': net, 'state_dict': net}, path)
  assert 'holds several networks, state_dict, model; save' in _message(path)
  torch.save({'epoch': 3}, path)
  assert 'holds a dict that is no state dict' in _message(path)
  torch.save([1], path)
  assert 'holds a list that is no state dict' in _message(path)
  path.write_text('not what it seems')
  assert 'is damaged, or no .pth file (' in _message(path)


def test_without_pytorch_other_weights_are_asked_for(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  words = str(_error(tmp_path / 'net.pth'))
  assert "weights of PyTorch needs the extra 'torch'" in words
  assert words.endswith('; or give the weights as .safetensors')
  monkeypatch.setitem(sys.modules, 'safetensors', None)
  words = str(_error(tmp_path / 'net.safetensors'))
  assert "needs the extra 'gan'" in words and 'or give the' not in words


def test_files_that_are_not_there(save, tmp_path):
  path = save({'a': np.ones(1, np.float32)})
  path.unlink()
  assert 'cannot be read (No such file or directory); give the state dict' in (
    _message(path)
  )
  words = _message(tmp_path / 'net.onnx')
  assert 'weights of PyTorch are read from .pth, .pt, .safetensors' in words
