"""A network with zeros as a file: what it takes, and that it comes back."""

import io
import zipfile

import chex
import jax
import numpy as np
import pytest

from lit_jax.errors import UserError
from lit_jax.networks import sparse


def variables(kernel):
  return {
    'params': {
      'stem': {'kernel': kernel, 'bias': np.zeros(3, np.float32)},
    },
    'batch_stats': {'stem': {'mean': np.float32([0, 1, 0])}},
  }


def kernel(count, size=1024):
  """Of so many weights that are not zero, evenly apart."""
  own = np.zeros(size, np.float32)
  own[:: size // count][:count] = 1 + np.arange(count)
  return own.reshape(4, 4, -1)


def shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def entries(path):
  """The data bytes of each entry, without NumPy's header of 128 bytes."""
  with zipfile.ZipFile(path) as file:
    assert {i.compress_type for i in file.infolist()} == {zipfile.ZIP_STORED}
    return {
      i.filename.removesuffix('.npy'): i.file_size - 128
      for i in file.infolist()
    }


@pytest.mark.parametrize(
  'own, form',
  [
    # 1,024 weights: dense 4,096 bytes; a bitmap of 128 and four a weight; an
    # index of two and four a weight. A second entry takes 340 more.
    (kernel(1024), {'': 4096}),
    (kernel(256), {':bits': 128, ':values': 1024}),
    (kernel(16), {':indices': 32, ':values': 64}),
    # Indices up to 255 are bytes.
    (kernel(8, 240), {':indices': 8, ':values': 32}),
    # None at all.
    (np.zeros((4, 4, 64), np.float32), {':indices': 0, ':values': 0}),
    # So small a kernel is dense, for a second entry is larger than it is.
    (np.zeros((2, 2), np.float32), {'': 16}),
  ],
)
def test_each_kernel_takes_the_smallest_form(own, form, tmp_path):
  tree, path = variables(own), tmp_path / 'net.npz'
  sparse.write(path, tree)
  assert entries(path) == {
    **{f'params/stem/kernel{end}': size for end, size in form.items()},
    'params/stem/bias': 12,
    'batch_stats/stem/mean': 12,
  }
  assert path.stat().st_size == sparse.stored_bytes(tree)
  found = sparse.read(path, shapes(tree))
  chex.assert_trees_all_equal_shapes_and_dtypes(found, tree)
  assert _bytes(found) == _bytes(tree)


def _bytes(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_bytes_by_hand():
  # The three arrays; each is behind a header of 128, in a ZIP entry whose
  # records are 30 + 20 and 46 bytes and have its name twice, with '.npy'; the
  # archive ends with 22.
  names = 'params/stem/kernel', 'params/stem/bias', 'batch_stats/stem/mean'
  data = 4096 + 12 + 12
  records = sum(128 + 96 + 2 * len(name + '.npy') for name in names)
  assert sparse.stored_bytes(variables(kernel(1024))) == data + records + 22


@pytest.mark.parametrize('count', [2, 400])
def test_odd_values_come_back_bit_for_bit(count, tmp_path):
  own = kernel(count)
  own.flat[:2] = np.float32([np.nan, -0.0])
  own.flat[5] = -np.inf
  tree, path = variables(own), tmp_path / 'net.npz'
  sparse.write(path, tree)
  assert 'params/stem/kernel' not in entries(path)
  assert _bytes(sparse.read(path, shapes(tree))) == _bytes(tree)


def test_half_of_the_weights_are_half_of_the_bytes():
  rng = np.random.default_rng(0)
  dense = rng.normal(size=(3, 3, 64, 64)).astype(np.float32)
  half = np.where(
    rng.permutation(dense.size).reshape(dense.shape) % 2, dense, 0
  )
  whole, part = (sparse.stored_bytes(variables(own)) for own in (dense, half))
  # And a bit a weight, of which there are 32 in a dense one.
  assert part / whole == pytest.approx(0.5 + 1 / 32, abs=0.005)


def test_nonzeros_are_of_all_parameters():
  assert sparse.nonzeros(variables(kernel(16))['params']) == 16
  tree = {'a': {'kernel': kernel(3), 'bias': np.ones(5, np.float32)}}
  assert sparse.nonzeros(tree) == 8


def _written(tmp_path, content=None, **arrays):
  path = tmp_path / 'net.npz'
  if content is None:
    file = io.BytesIO()
    np.savez(file, **arrays)
    content = file.getvalue()
  path.write_bytes(content)
  return path


def test_no_file_and_a_damaged_one(tmp_path):
  template = shapes(variables(kernel(16)))
  with pytest.raises(UserError, match='cannot read .*net.npz'):
    sparse.read(tmp_path / 'net.npz', template)
  sparse.write(tmp_path / 'net.npz', variables(kernel(16)))
  whole = (tmp_path / 'net.npz').read_bytes()
  for content in (b'', b'text', whole[: len(whole) // 2]):
    with pytest.raises(UserError, match='cannot read .*net.npz') as caught:
      sparse.read(_written(tmp_path, content), template)
    assert '\n' not in str(caught.value)


def test_pickles_are_not_read(tmp_path):
  path = _written(tmp_path, **{'params/a': np.array([{}], object)})
  template = {'params': {'a': jax.ShapeDtypeStruct((1,), np.float32)}}
  with pytest.raises(UserError, match='cannot read'):
    sparse.read(path, template)


VALUES = np.ones(2, np.float32)


@pytest.mark.parametrize(
  'arrays, words',
  [
    ({}, 'lacks a/kernel'),
    ({'a/kernel': np.ones((2, 3), np.float32)}, 'another form of a/kernel'),
    ({'a/kernel': np.ones((3, 3), np.float64)}, 'another form of a/kernel'),
    ({'a/kernel:values': VALUES}, 'lacks a/kernel'),
    (
      {'a/kernel:values': VALUES, 'a/kernel:indices': np.uint8([1, 9])},
      'lacks a/kernel',
    ),
    (
      {'a/kernel:values': VALUES, 'a/kernel:indices': np.uint8([1])},
      'lacks a/kernel',
    ),
    (
      {'a/kernel:values': VALUES, 'a/kernel:bits': np.uint8([3])},
      'lacks a/kernel',
    ),
    (
      {'a/kernel': np.ones((3, 3), np.float32), 'b/kernel': VALUES},
      'holds b/kernel as well',
    ),
  ],
)
def test_files_of_another_network(arrays, words, tmp_path):
  template = {'a': {'kernel': jax.ShapeDtypeStruct((3, 3), np.float32)}}
  with pytest.raises(UserError, match=words):
    sparse.read(_written(tmp_path, **arrays), template)
