"""InceptionV3 against pytorch-fid, its weights' files, and many images.

The reference (fixtures/inception.npz, made by
fixtures/make_inception_fixture.py) is in float64; what is seen here is the
rounding of this side's float32 after 48 convolutions.
"""

import functools
import hashlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import state_dicts
from fixtures import weights
from flax import traverse_util

from lit_jax.errors import UserError
from lit_jax.models import inception as model
from lit_jax.networks import inception
from lit_jax.scores import fid

# Of the norm; 3e-7 was seen, and the features of two images differ by 0.05.
CLOSE = 1e-5
BATCH = 2


@functools.cache
def _stored():
  path = pathlib.Path(__file__).parent / 'fixtures' / 'inception.npz'
  with np.load(path) as f:
    return dict(f)


@functools.cache
def _shapes():
  """Of all variables, by Flax path."""
  image = jax.ShapeDtypeStruct((1, model.SIZE, model.SIZE, 3), jnp.float32)
  tree = jax.eval_shape(model.InceptionV3().init, jax.random.key(0), image)
  flat = traverse_util.flatten_dict(tree, sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}


@pytest.fixture(scope='module')
def drawn():
  """The weights of the fixture, by Flax path."""
  return weights.draw(_shapes(), weights.INCEPTION_SEED)


@pytest.fixture(scope='module')
def variables(drawn):
  return traverse_util.unflatten_dict(
    {path: jnp.asarray(array) for path, array in drawn.items()}, sep='/'
  )


def _off(found, wanted):
  return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


# The network.


def test_its_size_is_that_of_the_published_one():
  shapes = _shapes()
  count = sum(
    np.prod(shape) for path, shape in shapes.items() if 'params' in path
  )
  # 21,802,784 of convolutions and norms, and 1008 classes of 2048 features.
  assert count == 23_850_960
  assert len(shapes) == 94 * 5 + 2


@pytest.mark.parametrize('size', weights.INCEPTION_SIZES)
def test_features_and_logits_are_those_of_pytorch_fid(size, variables):
  name = '{}x{}'.format(*size)
  found = inception.outputs(variables, weights.pictures(*size))
  pool, logits = _stored()[f'{name}/pool'], _stored()[f'{name}/logits']
  assert found.pool.dtype == found.logits.dtype == jnp.float32
  assert _off(found.pool, pool) < CLOSE
  assert _off(found.logits, logits) < CLOSE
  bias = variables['params']['fc']['bias'].reshape(1, -1)
  assert _off(found.unbiased, logits - bias) < CLOSE
  # The features are of one size, and tell the two images apart.
  assert 1 < np.abs(pool).mean() < 10
  assert _off(pool[0], pool[1]) > 1000 * CLOSE


@pytest.mark.parametrize(
  'name, value',
  [
    ('_average', lambda x: model.nn.avg_pool(x, (3, 3), padding='SAME')),
    ('_maximum', model._average),
    ('_EPSILON', 1e-5),
  ],
)
def test_small_mistakes_are_noticed(name, value, variables, monkeypatch):
  monkeypatch.setattr(model, name, value)
  x = model.prepare(jnp.asarray(weights.pictures(32, 32)))
  found = jax.jit(model.InceptionV3().apply)(variables, x)
  assert _off(found.pool, _stored()['32x32/pool']) > 10 * CLOSE


def test_antialiasing_would_be_noticed(variables):
  images = jnp.asarray(weights.pictures(330, 310)) / 255
  smooth = jax.image.resize(images, (2, 299, 299, 3), 'bilinear')
  found = inception.outputs(variables, smooth)
  assert _off(found.pool, _stored()['330x310/pool']) > 10 * CLOSE


def test_floats_from_0_to_1_are_images_as_well(variables):
  images = weights.pictures(32, 32)
  for dtype in (np.float32, np.float64):
    found = model.prepare(jnp.asarray((images / 255).astype(dtype)))
    np.testing.assert_allclose(found, model.prepare(images), atol=1e-6)
  assert model.prepare(images).dtype == jnp.float32


def test_images_are_interpolated_between_the_nearest_pixels():
  # Columns 0 and 1 of two: 299 places from -0.4967 to 1.4967.
  images = np.zeros((1, 2, 2, 3), np.uint8)
  images[:, :, 1] = 255
  row = np.asarray(model.prepare(images))[0, 7, :, 1]
  places = np.clip((np.arange(299) + 0.5) * 2 / 299 - 0.5, 0, 1)
  np.testing.assert_allclose(row, 2 * places - 1, atol=1e-6)


def test_prepare_is_that_of_pytorch():
  torch = pytest.importorskip(
    'torch', reason="needs PyTorch: pip install -e '.[torch]'"
  )
  for size in ((17, 40), (299, 299), (512, 300), (800, 1000)):
    images = weights.pictures(*size)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    x = torch.nn.functional.interpolate(
      x, (299, 299), mode='bilinear', align_corners=False
    )
    wanted = (2 * x - 1).permute(0, 2, 3, 1).numpy()
    # A grey level is 0.008; what is seen are float32's places in the image.
    np.testing.assert_allclose(model.prepare(images), wanted, atol=1e-4)


# FID.


@pytest.mark.parametrize('case', weights.FID_CASES)
def test_the_distance_is_that_of_pytorch_fid(case):
  a, b = weights.gaussians(case)
  wanted = float(_stored()[f'fid/{case}'])
  assert fid.frechet(*a, *b) == pytest.approx(wanted, rel=1e-9)


# Many images.


def test_batches_of_any_size_give_each_image_its_own_numbers(variables):
  images = weights.pictures(32, 32)
  several = np.concatenate([images, images[::-1], images[:1]])
  parts = [several[:1], several[1:4], several[4:]]
  features, probabilities = inception.read(variables, iter(parts), BATCH)
  assert features.shape == (5, 2048) and probabilities.shape == (5, 1008)
  assert features.dtype == probabilities.dtype == np.float32
  wanted = _stored()['32x32/pool'][[0, 1, 1, 0, 0]]
  assert _off(features, wanted) < CLOSE
  np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
  unbiased = _stored()['32x32/logits'] - np.asarray(
    variables['params']['fc']['bias']
  )
  softmax = np.exp(unbiased) / np.exp(unbiased).sum(1, keepdims=True)
  assert _off(probabilities, softmax[[0, 1, 1, 0, 0]]) < 100 * CLOSE


def test_images_of_several_sizes_may_follow_each_other(variables):
  sizes = weights.INCEPTION_SIZES[:2]
  parts = [weights.pictures(*size)[:1] for size in sizes]
  counts = []
  for i, (features, _) in enumerate(inception.stream(variables, parts, BATCH)):
    name = '{}x{}'.format(*sizes[i])
    assert _off(features, _stored()[f'{name}/pool'][:1]) < CLOSE
    counts.append(len(features))
  assert counts == [1, 1]


def test_batches_are_whole_but_for_the_last():
  images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1).repeat(3, 3)
  for cuts in ((), (1,), (3, 4), (2, 4, 6), (1, 2, 3, 4, 5, 6), (5,)):
    chunks = list(inception._rebatched(np.split(images, cuts), 3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert np.array_equal(np.concatenate(chunks), images)
  chunks = list(inception._rebatched([images, images], 7))
  assert [len(chunk) for chunk in chunks] == [7, 7]


def test_what_is_no_image_is_refused(variables):
  good = weights.pictures(32, 32)
  for images in (
    good[0], good[..., :1], good.astype(np.int32), good[:0], good.tolist()
  ):  # fmt: skip
    with pytest.raises(UserError, match=r'cannot be scored; give \[n, height'):
      inception.outputs(variables, images)
  with pytest.raises(UserError, match='a batch of 0 images; give at least 1'):
    inception.read(variables, [good], 0)
  with pytest.raises(UserError, match='there are no images to score'):
    inception.read(variables, [])


# Files of weights.


@pytest.fixture(scope='module')
def state(drawn):
  """PyTorch's keys and layouts, as NumPy arrays."""
  result = {}
  for path, array in drawn.items():
    collection, *place, leaf = path.split('/')
    if collection == 'batch_stats':
      leaf = f'running_{leaf}'
    elif leaf != 'bias':
      leaf = 'weight'
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
    # Contiguous, for safetensors takes the bytes as they lie.
    result['.'.join([*place, leaf])] = np.ascontiguousarray(
      array.transpose(axes)
    )
  return result


@pytest.fixture
def save(tmp_path):
  """Writes arrays by name as safetensors."""
  numpy = pytest.importorskip(
    'safetensors.numpy', reason="needs safetensors: pip install -e '.[gan]'"
  )

  def write(arrays, name='net.safetensors'):
    numpy.save_file(arrays, tmp_path / name)
    return tmp_path / name

  return write


@pytest.fixture
def torch():
  return pytest.importorskip(
    'torch', reason="needs PyTorch: pip install -e '.[torch]'"
  )


def _message(path, **options):
  """The one line that the file is refused with."""
  with pytest.raises(UserError) as caught:
    inception.load(path, **options)
  words = str(caught.value)
  assert '\n' not in words and len(words) < 500
  assert path.name in words
  return words


def _assert_loaded(found, drawn):
  flat = traverse_util.flatten_dict(found, sep='/')
  assert flat.keys() == drawn.keys()
  for path, array in drawn.items():
    assert flat[path].dtype == jnp.float32
    assert np.array_equal(flat[path], array), path


def test_safetensors(state, drawn, save):
  _assert_loaded(inception.load(save(state)), drawn)
  wrapped = {f'module.{key}': array for key, array in state.items()}
  wrapped['module.Conv2d_1a_3x3.bn.num_batches_tracked'] = np.array(3)
  path = save(wrapped)
  _assert_loaded(inception.load(str(path)), drawn)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  inception.load(path, sha256=digest.upper())
  inception.load(path, sha256=digest[:8])


@pytest.mark.parametrize('old', [False, True])
def test_state_dicts_of_pytorch(old, state, drawn, torch, tmp_path):
  tensors = {key: torch.from_numpy(array) for key, array in state.items()}
  tensors['Mixed_5b.branch1x1.bn.num_batches_tracked'] = torch.tensor(7)
  # As a network has them.
  tensors['fc.bias'] = torch.nn.Parameter(tensors['fc.bias'])
  content = {'epoch': 3, 'state_dict': tensors} if old else tensors
  path = tmp_path / 'net.pth'
  torch.save(content, path, _use_new_zipfile_serialization=not old)
  _assert_loaded(inception.load(path), drawn)
  # The name says which file it is.
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  path = path.rename(tmp_path / f'pt_inception-2015-12-05-{digest[:8]}.pth')
  inception.load(path)
  words = _message(path.rename(tmp_path / 'net-0123abcd.pth'))
  assert f'its SHA-256 is {digest[:8]}…, and 0123abcd is in its name' in words


def test_half_precision_is_widened(state, save):
  half = {key: array.astype(np.float16) for key, array in state.items()}
  found = inception.load(save(half))
  kernel = found['params']['fc']['kernel']
  assert kernel.dtype == jnp.float32
  assert np.array_equal(kernel, half['fc.weight'].T.astype(np.float32))


def test_numbers_that_numpy_lacks(state, save):
  bfloat16 = {'fc.bias': state['fc.bias'].astype(jnp.bfloat16)}
  words = _message(save(bfloat16))
  assert "numbers of the kind 'BF16', which NumPy lacks; save them" in words


def test_a_missing_file(tmp_path, torch):
  del torch
  words = _message(tmp_path / 'none.pth')
  assert 'cannot be read (No such file or directory); give FID' in words
  assert inception.PUBLISHED in words
  (tmp_path / 'folder.pth').mkdir()
  assert 'cannot be read (Is a directory)' in _message(tmp_path / 'folder.pth')
  assert 'are read from .pth, .pt, .safetensors' in _message(
    tmp_path / 'net.onnx'
  )


@pytest.mark.parametrize(
  'name, extra, package',
  [('a.pth', 'torch', 'torch'), ('a.safetensors', 'gan', 'safetensors')],
)
def test_a_missing_extra(name, extra, package, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  words = f"weights of Inception needs the extra '{extra}'"
  with pytest.raises(UserError, match=words):
    inception.load(tmp_path / name)


def test_another_checksum(state, save):
  path = save({'fc.bias': state['fc.bias']})
  words = _message(path, sha256='ab' * 32)
  assert f'and {"ab" * 32} was asked for: it is damaged or another' in words
  for bad in ('abc', 'x' * 64, 'a' * 65):
    assert 'is not 8 to 64 hexadecimal digits' in _message(path, sha256=bad)


def test_other_keys_and_shapes(state, save):
  few = {key: state[key] for key in state if not key.startswith('Mixed_5')}
  words = _message(save(few))
  assert 'is of another network: it lacks Mixed_5b.branch1x1.bn.bias, ' in words
  assert f' and {len(state) - len(few) - 3} more; give FID' in words
  more = state | {'extra.weight': np.ones(2, np.float32)}
  assert 'network: it has the unknown extra.weight; give' in _message(
    save(more)
  )
  del more['fc.bias']
  words = _message(save(more))
  assert 'it lacks fc.bias, and has the unknown extra.weight; give' in words
  other = state | {'fc.weight': state['fc.weight'][:1000]}
  words = _message(save(other))
  assert (
    'fc.weight is float32 [1000, 2048], not floating-point [1008, 2048]'
    in words
  )
  other = state | {'fc.bias': np.zeros(1008, np.int32)}
  assert 'fc.bias is int32 [1008], not floating' in _message(save(other))


def test_the_network_of_imagenet(state, save):
  aux = {'AuxLogits.conv0.conv.weight': np.ones(2, np.float32)}
  aux |= {'fc.bias': np.zeros(1000, np.float32)}
  words = _message(save(state | aux))
  assert (
    "torchvision's Inception of ImageNet (AuxLogits, 1000 classes)" in words
  )
  assert 'not that of FID (1008 classes)' in words


def test_weights_that_are_no_numbers(state, save):
  for value, key, fault in (
    (np.nan, 'Mixed_6a.branch3x3.conv.weight', 'holds NaN or infinity'),
    (np.inf, 'fc.bias', 'holds NaN or infinity'),
    (-1, 'Mixed_6a.branch3x3.bn.running_var', 'holds variances below 0'),
  ):
    wrong = state[key].copy()
    wrong.flat[5] = value
    assert f'{key} {fault}' in _message(save(state | {key: wrong}))


def test_files_that_are_cut_short(state, save):
  path = save({'fc.bias': state['fc.bias']})
  whole = path.read_bytes()
  for count in (0, 4, 50, len(whole) - 1):
    path.write_bytes(whole[:count])
    assert 'is damaged, or no .safetensors file (' in _message(path)


@pytest.mark.parametrize('old', [False, True])
def test_state_dicts_that_are_cut_short(old, torch, tmp_path):
  path = tmp_path / 'net.pth'
  content = {'fc.bias': torch.ones(1008)}
  torch.save(content, path, _use_new_zipfile_serialization=not old)
  whole = path.read_bytes()
  for count in (0, 1, 50, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:count])
    assert 'is damaged, or no .pth file (' in _message(path)
  path.write_text('not what it seems')
  assert 'is damaged, or no .pth file (' in _message(path)


def test_pickles_that_are_no_state_dict(torch, tmp_path):
  path = tmp_path / 'net.pth'
  for content, kind in (
    ([1, 2], 'list'), ({}, 'dict'), ({'fc.bias': 3}, 'dict'),
    ({0: torch.ones(1)}, 'dict'), (torch.ones(3), 'Tensor'),
  ):  # fmt: skip
    torch.save(content, path)
    assert f'holds a {kind} that is no state dict' in _message(path)


def test_pickles_are_never_executed(torch, tmp_path):
  path, made = tmp_path / 'net.pth', tmp_path / 'made'
  for content in (torch.nn.Linear(2, 2), {'fc.bias': state_dicts.Writes(made)}):
    torch.save(content, path)
    words = _message(path)
    assert 'holds Python objects, which reading would execute' in words
  assert not made.exists()


# A FutureWarning of newer PyTorch, and of older a DeprecationWarning.
@pytest.mark.filterwarnings('ignore:`torch.jit')
def test_programs_of_torchscript(torch, tmp_path):
  path = tmp_path / 'net.pt'
  example = torch.ones(1, 2)
  torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), example), path)
  assert 'is a TorchScript archive, which is a program' in _message(path)
