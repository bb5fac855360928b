"""Tests of lit_jax.data.images, on files that they make themselves."""

import gzip
import hashlib
import http.client
import io
import json
import os
import pathlib
import sys
import tarfile
import tracemalloc
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lit_jax.data.images import (
  cifar,
  fashion_mnist,
  make_fashion_mnist_mini,
  sources,
)
from lit_jax.errors import UserError

RECORDS = 12  # in each small CIFAR file
COUNTS = {'train': 30, 'test': 20}  # of each small Fashion-MNIST split


def refused(name, data_dir, *words):
  """Checks that loading fails with one line that holds every word."""
  with pytest.raises(UserError) as caught:
    sources.load(name, str(data_dir))
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert str(word) in message


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError('a test tried to reach the network')

  monkeypatch.setattr(urllib.request, 'urlopen', refuse)


# CIFAR.


@pytest.fixture
def small_cifar(monkeypatch):
  """Shrinks every CIFAR file to RECORDS records of the real layout."""
  for name, facts in cifar._CIFAR.items():
    small = facts._replace(records={'train': RECORDS, 'test': RECORDS})
    monkeypatch.setitem(cifar._CIFAR, name, small)


def cifar_bytes(name, seed=0, count=RECORDS):
  rng = np.random.default_rng(seed)
  labels = rng.integers(
    0, len(cifar._CIFAR[name].classes), (count, 1), np.uint8
  )
  pixels = rng.integers(0, 256, (count, 3072), np.uint8)
  parts = [labels, pixels]
  if name == 'cifar100':
    parts.insert(0, labels // 5)  # the coarse label goes first
  return np.concatenate(parts, 1).tobytes()


def cifar_files(name):
  facts = cifar._CIFAR[name]
  files = [f for names in facts.files.values() for f in names]
  return {f: cifar_bytes(name, seed) for seed, f in enumerate(files)}


def unpacked(name, data_dir):
  folder = data_dir / cifar._CIFAR[name].folder
  folder.mkdir(parents=True)
  for file, raw in cifar_files(name).items():
    (folder / file).write_bytes(raw)
  return folder


def packed_bytes(name, files=None):
  folder = cifar._CIFAR[name].folder
  raw = io.BytesIO()
  with tarfile.open(fileobj=raw, mode='w:gz') as tar:
    top = tarfile.TarInfo(folder)
    top.type = tarfile.DIRTYPE
    tar.addfile(top)
    for file, data in (files or cifar_files(name)).items():
      member = tarfile.TarInfo(f'{folder}/{file}')
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return raw.getvalue()


def accept(monkeypatch, name, raw):
  """Makes these bytes the ones that the checksum table expects."""
  facts = cifar._CIFAR[name]
  digest = hashlib.md5(raw).hexdigest()
  monkeypatch.setitem(cifar._CIFAR, name, facts._replace(md5=digest))


def same(one, other):
  assert one.splits.keys() == other.splits.keys()
  for split, (images, labels) in one.splits.items():
    np.testing.assert_array_equal(images, other.splits[split].inputs)
    np.testing.assert_array_equal(labels, other.splits[split].labels)


def test_full_size_cifar10(tmp_path):
  records = np.zeros((10000, 3073), np.uint8)
  records[:, 0] = np.arange(10000) % 10
  files = cifar._CIFAR['cifar10'].files
  # One file on disk under six names.
  first = tmp_path / 'test_batch.bin'
  first.write_bytes(records.tobytes())
  for file in files['train']:
    os.link(first, tmp_path / file)
  dataset = sources.load('cifar10', str(tmp_path))
  assert dataset.classes == len(set(dataset.class_names)) == 10
  assert dataset.splits['train'].inputs.shape == (50000, 32, 32, 3)
  assert dataset.splits['test'].inputs.shape == (10000, 32, 32, 3)
  assert (np.bincount(dataset.splits['train'].labels) == 5000).all()


def test_planes_become_channels(tmp_path, small_cifar):
  folder = unpacked('cifar10', tmp_path)
  record = np.zeros(3073, np.uint8)
  record[0] = 7
  record[1 + 0] = 11  # red, row 0, column 0
  record[1 + 1024 + 1] = 22  # green, row 0, column 1
  record[1 + 2048 + 32] = 33  # blue, row 1, column 0
  rest = cifar_bytes('cifar10')[3073:]
  (folder / 'data_batch_1.bin').write_bytes(record.tobytes() + rest)
  train = sources.load('cifar10', str(tmp_path)).splits['train']
  expected = np.zeros((32, 32, 3), np.uint8)
  expected[0, 0, 0], expected[0, 1, 1], expected[1, 0, 2] = 11, 22, 33
  np.testing.assert_array_equal(train.inputs[0], expected)
  assert train.labels[0] == 7
  assert train.inputs.dtype == np.uint8 and train.labels.dtype == np.int32
  assert train.inputs.flags.c_contiguous


def test_train_files_in_order(tmp_path, small_cifar):
  unpacked('cifar10', tmp_path)
  train = sources.load('cifar10', str(tmp_path)).splits['train']
  raw = [cifar_bytes('cifar10', seed) for seed in range(5)]
  labels = [np.frombuffer(r, np.uint8).reshape(-1, 3073)[:, 0] for r in raw]
  np.testing.assert_array_equal(train.labels, np.concatenate(labels))


def test_cifar100_takes_the_fine_label(tmp_path, small_cifar):
  folder = unpacked('cifar100', tmp_path)
  records = np.zeros((RECORDS, 3074), np.uint8)
  records[:, 0] = 3
  records[:, 1] = 88 + np.arange(RECORDS)
  (folder / 'train.bin').write_bytes(records.tobytes())
  dataset = sources.load('cifar100', str(tmp_path))
  assert dataset.classes == len(set(dataset.class_names)) == 100
  labels = dataset.splits['train'].labels
  np.testing.assert_array_equal(labels, 88 + np.arange(RECORDS))


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_every_kind_of_copy_gives_the_same(
  name, tmp_path, small_cifar, monkeypatch
):
  folder = unpacked(name, tmp_path / 'unpacked')
  raw = packed_bytes(name)
  accept(monkeypatch, name, raw)
  (tmp_path / 'packed').mkdir()
  (tmp_path / 'packed' / cifar._CIFAR[name].archive).write_bytes(raw)
  inside = sources.load(name, str(tmp_path / 'unpacked'))
  same(inside, sources.load(name, str(folder)))
  same(inside, sources.load(name, str(tmp_path / 'packed')))


def test_wrong_checksum(tmp_path, small_cifar):
  archive = tmp_path / 'cifar-10-binary.tar.gz'
  archive.write_bytes(packed_bytes('cifar10'))
  md5 = 'c32a1d4ab5d03f1284b67883e8d87530'
  refused('cifar10', tmp_path, archive, 'MD5', md5, 'fetch')


def test_official_checksum_of_cifar100():
  md5 = '03b5dce01913d631647c71ecec9e9cb8'
  assert cifar._CIFAR['cifar100'].md5 == md5


@pytest.mark.parametrize('damage', ['cut', 'not gzip', 'flipped', 'empty'])
def test_damaged_archive(damage, tmp_path, small_cifar, monkeypatch):
  raw = packed_bytes('cifar10')
  middle = len(raw) // 2
  damaged = {
    'cut': raw[:middle],
    'not gzip': b'<html>not found</html>' * 100,
    'flipped': raw[:middle] + bytes(1000) + raw[middle + 1000 :],
    'empty': b'',
  }[damage]
  accept(monkeypatch, 'cifar10', damaged)
  archive = tmp_path / 'cifar-10-binary.tar.gz'
  archive.write_bytes(damaged)
  refused('cifar10', tmp_path, archive, 'delete it')


def test_archive_lacks_a_file(tmp_path, small_cifar, monkeypatch):
  files = cifar_files('cifar10')
  del files['data_batch_3.bin']
  raw = packed_bytes('cifar10', files)
  accept(monkeypatch, 'cifar10', raw)
  archive = tmp_path / 'cifar-10-binary.tar.gz'
  archive.write_bytes(raw)
  refused('cifar10', tmp_path, archive, 'lacks', 'data_batch_3.bin')


def test_archive_with_a_short_file(tmp_path, small_cifar, monkeypatch):
  files = cifar_files('cifar10')
  files['test_batch.bin'] = files['test_batch.bin'][:-1]
  raw = packed_bytes('cifar10', files)
  accept(monkeypatch, 'cifar10', raw)
  archive = tmp_path / 'cifar-10-binary.tar.gz'
  archive.write_bytes(raw)
  refused('cifar10', tmp_path, archive, 'test_batch.bin', 'cut short')


def test_archive_is_a_directory(tmp_path):
  archive = tmp_path / 'cifar-10-binary.tar.gz'
  archive.mkdir()
  refused('cifar10', tmp_path, archive, 'directory')


@pytest.mark.parametrize('inside', [True, False])
def test_unpacked_file_missing(inside, tmp_path, small_cifar):
  folder = unpacked('cifar10', tmp_path)
  (folder / 'data_batch_2.bin').unlink()
  where = tmp_path if inside else folder
  refused('cifar10', where, folder / 'data_batch_2.bin', 'unpack')


def test_unpacked_file_cut_short(tmp_path, small_cifar):
  file = unpacked('cifar10', tmp_path) / 'data_batch_5.bin'
  file.write_bytes(file.read_bytes()[:-5])
  refused('cifar10', tmp_path, file, 'cut short', 'unpack')


def test_unpacked_file_too_long(tmp_path, small_cifar):
  file = unpacked('cifar100', tmp_path) / 'test.bin'
  file.write_bytes(file.read_bytes() + b'x')
  refused('cifar100', tmp_path, file, 'too long', 'unpack')


@pytest.mark.parametrize('name, label', [('cifar10', 10), ('cifar100', 100)])
def test_cifar_label_out_of_range(name, label, tmp_path, small_cifar):
  file = unpacked(name, tmp_path) / cifar._CIFAR[name].files['test'][0]
  raw = bytearray(file.read_bytes())
  at = cifar._CIFAR[name].label_bytes - 1
  raw[at] = label
  file.write_bytes(raw)
  refused(name, tmp_path, file, f'label 0 is {label}', 'unpack')


def test_unpacked_file_is_a_directory(tmp_path, small_cifar):
  file = unpacked('cifar10', tmp_path) / 'test_batch.bin'
  file.unlink()
  file.mkdir()
  refused('cifar10', tmp_path, file, 'directory')


def test_unpacked_folder_is_a_file(tmp_path):
  folder = tmp_path / 'cifar-10-batches-bin'
  folder.write_bytes(b'')
  refused('cifar10', tmp_path, folder)


def test_unreadable_file(tmp_path, small_cifar, monkeypatch):
  file = unpacked('cifar10', tmp_path) / 'test_batch.bin'
  plain = open

  # Not by chmod, which stops nobody who runs the tests as root.
  def guarded(path, *args, **kwargs):
    if str(path) == str(file):
      raise PermissionError(13, 'Permission denied', str(path))
    return plain(path, *args, **kwargs)

  monkeypatch.setattr('builtins.open', guarded)
  refused('cifar10', tmp_path, file, 'Permission denied')


# The fetch.


class Response(io.BytesIO):
  """What urlopen returns, as far as the fetch uses it."""


class Broken(Response):
  """A connection that fails once some bytes have come."""

  error: Exception = ConnectionResetError(104, 'Connection reset by peer')

  def read(self, *args):
    if self.tell():
      raise self.error
    return super().read(10)


def serve(monkeypatch, response):
  asked = []

  def urlopen(url, **kwargs):
    asked.append(url)
    if isinstance(response, Exception):
      raise response
    return response

  monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
  return asked


def test_fetch(tmp_path, small_cifar, monkeypatch, capsys):
  raw = packed_bytes('cifar100')
  accept(monkeypatch, 'cifar100', raw)
  asked = serve(monkeypatch, Response(raw))
  data_dir = tmp_path / 'new' / 'folder'
  fetched = sources.load('cifar100', str(data_dir))
  url = 'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz'
  assert asked == [url]
  assert os.listdir(data_dir) == ['cifar-100-binary.tar.gz']
  assert url in capsys.readouterr().err
  same(fetched, sources.load('cifar100', str(data_dir)))
  assert len(asked) == 1  # the second time it is there


@pytest.mark.parametrize(
  'error',
  [
    ConnectionResetError(104, 'Connection reset by peer'),
    http.client.IncompleteRead(b'x', 9),
    TimeoutError('timed out'),
  ],
)
def test_fetch_fails_midway(error, tmp_path, monkeypatch):
  broken = Broken(b'x' * 100)
  broken.error = error
  serve(monkeypatch, broken)
  refused('cifar10', tmp_path, 'put cifar-10-binary.tar.gz in', tmp_path)
  assert broken.closed
  assert not os.listdir(tmp_path)


def test_interrupted_fetch_leaves_nothing(tmp_path, monkeypatch):
  broken = Broken(b'x' * 100)
  broken.error = KeyboardInterrupt()  # type: ignore[assignment]
  serve(monkeypatch, broken)
  with pytest.raises(KeyboardInterrupt):
    sources.load('cifar10', str(tmp_path))
  assert not os.listdir(tmp_path)


def test_fetch_cut_short(tmp_path, small_cifar, monkeypatch):
  # The far end may close early without an error; the checksum tells.
  raw = packed_bytes('cifar10')
  accept(monkeypatch, 'cifar10', raw)
  serve(monkeypatch, Response(raw[:-100]))
  refused('cifar10', tmp_path, 'cifar-10-binary.tar.gz', 'MD5', 'put')
  assert not os.listdir(tmp_path)


def test_fetch_refused(tmp_path, monkeypatch):
  serve(monkeypatch, urllib.error.URLError('no route to host'))
  refused('cifar10', tmp_path, 'no route to host', 'put', tmp_path)
  assert not os.listdir(tmp_path)


def test_data_dir_is_a_file(tmp_path):
  file = tmp_path / 'file'
  file.write_bytes(b'')
  for name in ('cifar10', 'fashion_mnist'):
    refused(name, file, file, 'not a directory')


def test_default_directory(tmp_path, small_cifar, monkeypatch):
  unpacked('cifar10', tmp_path / 'named')
  unpacked('cifar10', tmp_path / 'home' / '.cache' / 'lit_jax')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('LIT_JAX_DATA', str(tmp_path / 'named'))
  named = sources.load('cifar10')
  monkeypatch.delenv('LIT_JAX_DATA')
  same(named, sources.load('cifar10'))


# CIFAR as TensorFlow Datasets prepares it. The package writes and reads these
# without TensorFlow; only the packing of PNGs, which needs it, is done here.


def png(image):
  raw = io.BytesIO()
  Image.fromarray(image).save(raw, 'PNG')
  raw.seek(0)
  return raw


def prepare(
  data_dir, name, splits, version='3.0.2', ids=True, shape=(32, 32, 3)
):
  """Writes an array_record directory; splits maps to (images, labels)."""
  features = {
    'image': tfds.features.Image(shape=shape),
    # Wider than the real one, so that bad labels can be written.
    'label': tfds.features.ClassLabel(num_classes=1000),
  }
  if ids:
    features['id'] = tfds.features.Text()
  folder = data_dir / name / version
  folder.mkdir(parents=True)
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name=name,
      version=tfds.core.Version(version),
      data_dir=str(folder),
      module_name='',
    ),
    features=tfds.features.FeaturesDict(features),
    description='Made by a test.',
  )
  writer = tfds.core.SequentialWriter(
    info, 1000, file_format=tfds.core.FileFormat.ARRAY_RECORD
  )
  writer.initialize_splits(list(splits))
  for split, (images, labels) in splits.items():
    examples = [
      {'image': png(image), 'label': int(label), 'id': f'{split}_{i:05d}'}
      for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    if not ids:
      examples = [{k: e[k] for k in ('image', 'label')} for e in examples]
    else:
      examples.reverse()  # the package shuffles what it writes
    writer.add_examples({split: examples})
  writer.close_all()
  return folder


@pytest.mark.parametrize('ids', [True, False])
@pytest.mark.parametrize('version', ['3.0.2', '3.0.0'])
def test_prepared_round_trip(ids, version, tmp_path, small_cifar):
  unpacked('cifar10', tmp_path / 'plain')
  plain = sources.load('cifar10', str(tmp_path / 'plain'))
  prepare(tmp_path, 'cifar10', plain.splits, version, ids)
  unpacked('cifar10', tmp_path)  # the prepared copy goes before this one
  (tmp_path / 'cifar-10-batches-bin' / 'test_batch.bin').unlink()
  prepared = sources.load('cifar10', str(tmp_path))
  same(plain, prepared)
  assert prepared.splits['train'].inputs.dtype == np.uint8
  assert prepared.splits['train'].labels.dtype == np.int32
  assert 'tensorflow' not in sys.modules


def prepare_small(tmp_path, **kwargs):
  unpacked('cifar10', tmp_path / 'plain')
  splits = sources.load('cifar10', str(tmp_path / 'plain')).splits
  splits = {**splits, **kwargs}
  return prepare(tmp_path, 'cifar10', splits)


def test_newest_readable_version_wins(tmp_path, small_cifar):
  folder = prepare_small(tmp_path)
  tfrecord = tmp_path / 'cifar10' / '3.0.10'
  tfrecord.mkdir()
  (tfrecord / 'dataset_info.json').write_text('{"fileFormat": "tfrecord"}')
  cut_off = tmp_path / 'cifar10' / '9.0.0.incompleteAB12CD'
  cut_off.mkdir()
  (cut_off / 'dataset_info.json').write_text('{')
  sources.load('cifar10', str(tmp_path))
  assert folder.name == '3.0.2'


@pytest.mark.parametrize('info', [{'fileFormat': 'tfrecord'}, {}])
def test_prepared_as_tfrecord(info, tmp_path):
  folder = tmp_path / 'cifar100' / '3.0.2'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  refused('cifar100', tmp_path, folder, 'tfrecord', 'array_record')


@pytest.mark.parametrize('text', ['{', '[]', '{"fileFormat": {}}', '\xff'])
def test_damaged_description(text, tmp_path):
  folder = tmp_path / 'cifar10' / '3.0.2'
  folder.mkdir(parents=True)
  info = folder / 'dataset_info.json'
  info.write_text(text, encoding='latin-1')
  refused('cifar10', tmp_path, info, 'damaged', 'prepare')


def test_prepared_file_missing(tmp_path, small_cifar):
  folder = prepare_small(tmp_path)
  next(folder.glob('*test*')).unlink()
  refused('cifar10', tmp_path, folder, 'prepare')


def test_prepared_file_cut_short(tmp_path, small_cifar):
  folder = prepare_small(tmp_path)
  file = next(folder.glob('*test*'))
  file.write_bytes(file.read_bytes()[:1000])
  refused('cifar10', tmp_path, folder, 'prepare')


def test_prepared_split_missing(tmp_path, small_cifar):
  unpacked('cifar10', tmp_path / 'plain')
  splits = sources.load('cifar10', str(tmp_path / 'plain')).splits
  folder = prepare(tmp_path, 'cifar10', {'train': splits['train']})
  refused('cifar10', tmp_path, folder, 'test', 'prepare')


def test_prepared_split_of_wrong_size(tmp_path, small_cifar):
  images = np.zeros((5, 32, 32, 3), np.uint8)
  folder = prepare_small(tmp_path, test=(images, np.zeros(5)))
  refused('cifar10', tmp_path, folder, 'split test', '5 examples', RECORDS)


def test_prepared_label_out_of_range(tmp_path, small_cifar):
  images = np.zeros((RECORDS, 32, 32, 3), np.uint8)
  folder = prepare_small(tmp_path, test=(images, np.full(RECORDS, 10)))
  refused('cifar10', tmp_path, folder, 'split test', 'label 0 is 10')


def test_prepared_image_of_wrong_shape(tmp_path, small_cifar):
  images = np.zeros((5 * RECORDS, 28, 28, 3), np.uint8)
  split = (images, np.zeros(5 * RECORDS))
  folder = prepare(tmp_path, 'cifar10', {'train': split}, shape=(28, 28, 3))
  refused('cifar10', tmp_path, folder, 'split train', '(28, 28, 3)')


def test_package_missing(tmp_path, small_cifar, monkeypatch):
  folder = prepare_small(tmp_path)
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  refused('cifar10', tmp_path, folder, 'tensorflow-datasets')


# Fashion-MNIST.


@pytest.fixture
def small_fashion(tmp_path, monkeypatch):
  """A directory with four small files of the real format, two of them packed.

  Nothing is found where Debian puts the real ones.
  """
  monkeypatch.setattr(fashion_mnist, '_COUNTS', COUNTS)
  monkeypatch.setenv('LIT_JAX_SYSTEM_DATA', str(tmp_path / 'none'))
  folder = tmp_path / 'fashion-mnist'
  folder.mkdir()
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images, labels = fashion_arrays(split)
    raw = idx(0x803, images)
    (folder / f'{prefix}-images-idx3-ubyte.gz').write_bytes(gzip.compress(raw))
    (folder / f'{prefix}-labels-idx1-ubyte').write_bytes(idx(0x801, labels))
  return folder


def fashion_arrays(split):
  rng = np.random.default_rng(COUNTS[split])
  images = rng.integers(0, 256, (COUNTS[split], 28, 28), np.uint8)
  return images, np.arange(COUNTS[split], dtype=np.uint8) % 10


def idx(magic, array, shape=None):
  header = np.array([magic, *(shape or array.shape)], '>u4')
  return header.tobytes() + array.tobytes()


def test_fashion_packed_or_not(small_fashion):
  dataset = sources.load('fashion_mnist', str(small_fashion))
  assert dataset.classes == len(set(dataset.class_names)) == 10
  assert (dataset.preprocess.mean, dataset.preprocess.std) == (
    (0.2860,),
    (0.3530,),
  )
  for split in ('train', 'test'):
    images, labels = fashion_arrays(split)
    found = dataset.splits[split]
    np.testing.assert_array_equal(found.inputs, images[..., None])
    np.testing.assert_array_equal(found.labels, labels)
    assert found.labels.dtype == np.int32


def test_fashion_from_the_system(small_fashion, tmp_path, monkeypatch):
  monkeypatch.setenv('LIT_JAX_SYSTEM_DATA', str(tmp_path))
  dataset = sources.load('fashion_mnist', str(tmp_path / 'elsewhere'))
  assert len(dataset.splits['train'].labels) == COUNTS['train']


def test_fashion_missing(small_fashion, tmp_path):
  empty = tmp_path / 'empty'
  system = tmp_path / 'none'
  ways = ('zalandoresearch/fashion-mnist', 'dataset-fashion-mnist')
  refused('fashion_mnist', empty, empty, system, *ways)


def test_fashion_file_missing(small_fashion):
  (small_fashion / 't10k-labels-idx1-ubyte').unlink()
  words = (small_fashion, 't10k-labels-idx1-ubyte', 'dataset-fashion-mnist')
  refused('fashion_mnist', small_fashion, *words)


@pytest.mark.parametrize('damage', ['cut', 'not gzip', 'flipped', 'empty'])
def test_fashion_damaged_gzip(damage, small_fashion):
  file = small_fashion / 'train-images-idx3-ubyte.gz'
  raw = file.read_bytes()
  damaged = {
    'cut': raw[:-100],
    'not gzip': b'<html>not found</html>' * 100,
    'flipped': raw[:99] + bytes(100) + raw[199:],
    'empty': b'',
  }[damage]
  file.write_bytes(damaged)
  refused('fashion_mnist', small_fashion, file, 'put')


def test_fashion_wrong_magic(small_fashion):
  file = small_fashion / 'train-labels-idx1-ubyte'
  file.write_bytes(idx(0x803, fashion_arrays('train')[1]))
  refused('fashion_mnist', small_fashion, file, '2051', '2049')


def test_fashion_wrong_count(small_fashion):
  file = small_fashion / 'train-labels-idx1-ubyte'
  file.write_bytes(idx(0x801, np.zeros(29, np.uint8)))
  refused('fashion_mnist', small_fashion, file, '(29,)', '(30,)')


def test_fashion_wrong_image_size(small_fashion):
  file = small_fashion / 't10k-images-idx3-ubyte.gz'
  raw = idx(0x803, np.zeros((20, 32, 32), np.uint8))
  file.write_bytes(gzip.compress(raw))
  refused('fashion_mnist', small_fashion, file, '(20, 32, 32)')


@pytest.mark.parametrize('keep', [0, 5, 20])
def test_fashion_cut_short(keep, small_fashion):
  file = small_fashion / 'train-labels-idx1-ubyte'
  file.write_bytes(file.read_bytes()[:keep])
  refused('fashion_mnist', small_fashion, file, 'cut short')


def test_fashion_too_long(small_fashion):
  file = small_fashion / 'train-labels-idx1-ubyte'
  file.write_bytes(file.read_bytes() + b'x')
  refused('fashion_mnist', small_fashion, file, 'too long')


def test_fashion_label_out_of_range(small_fashion):
  file = small_fashion / 'train-labels-idx1-ubyte'
  labels = fashion_arrays('train')[1]
  labels[3] = 10
  file.write_bytes(idx(0x801, labels))
  refused('fashion_mnist', small_fashion, file, 'label 3 is 10')


def test_fashion_file_is_a_directory(small_fashion):
  file = small_fashion / 'train-images-idx3-ubyte.gz'
  file.unlink()
  file.mkdir()
  refused('fashion_mnist', small_fashion, file, 'directory')


def test_fashion_pipe_is_not_waited_for(small_fashion):
  file = small_fashion / 'train-labels-idx1-ubyte'
  file.unlink()
  os.mkfifo(file)
  refused('fashion_mnist', small_fashion, file, 'pipe')


def test_fashion_small_file_that_holds_a_large_one(small_fashion):
  file = small_fashion / 'train-images-idx3-ubyte.gz'
  header = idx(0x803, fashion_arrays('train')[0])[:16]
  size = 1 << 28
  with gzip.open(file, 'wb', 1) as packed:
    packed.write(header)
    for _ in range(size >> 20):
      packed.write(bytes(1 << 20))
  tracemalloc.start()
  refused('fashion_mnist', small_fashion, file, 'too long')
  assert tracemalloc.get_traced_memory()[1] < size / 16
  tracemalloc.stop()


# The embedded cut.


def test_mini():
  dataset = sources.load('fashion_mnist_mini')
  assert dataset.classes == len(set(dataset.class_names)) == 10
  for split, each in (('train', 200), ('test', 100)):
    images, labels = dataset.splits[split]
    assert images.shape == (10 * each, 28, 28, 1)
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert (np.bincount(labels) == each).all()
    pixels = images / 255.0
    np.testing.assert_allclose(
      pixels.mean(), dataset.preprocess.mean[0], atol=0.005
    )
    np.testing.assert_allclose(
      pixels.std(), dataset.preprocess.std[0], atol=0.005
    )


def test_mini_is_cut_from_the_full_set(tmp_path, monkeypatch):
  if not os.path.isdir(fashion_mnist.system_folder()):
    pytest.skip(
      'needs all of Fashion-MNIST in /usr/share/datasets/fashion-mnist: '
      'install the Debian package dataset-fashion-mnist'
    )
  monkeypatch.setenv('LIT_JAX_DATA', str(tmp_path))
  full = sources.load('fashion_mnist')
  mini = sources.load('fashion_mnist_mini')
  for split in ('train', 'test'):
    known = {
      image.tobytes() + bytes([label])
      for image, label in zip(*full.splits[split], strict=True)
    }
    for image, label in zip(*mini.splits[split], strict=True):
      assert image.tobytes() + bytes([label]) in known
  # And a new cut is the same one.
  stored = mini_arrays()
  for name, array in make_fashion_mnist_mini.cut(full).items():
    np.testing.assert_array_equal(stored[name], array)


def mini_arrays():
  with np.load(make_fashion_mnist_mini.PATH) as arrays:
    return dict(arrays)


def test_mini_file_is_the_same_every_time(tmp_path):
  arrays = mini_arrays()
  for name in ('one', 'two'):
    make_fashion_mnist_mini.write(str(tmp_path / name), arrays)
  one = (tmp_path / 'one').read_bytes()
  assert one == (tmp_path / 'two').read_bytes()
  assert b'\x00\x00\x21\x00' in one[:30]  # the date is 1 January 1980


def test_pick_refuses_a_small_class():
  with pytest.raises(ValueError, match='class 1 has 1'):
    make_fashion_mnist_mini.pick(np.array([0, 0, 1]), 2, 0)


def test_make_mini_without_the_full_set(
  small_fashion, tmp_path, monkeypatch, capsys
):
  empty = str(tmp_path / 'empty')
  monkeypatch.setattr(sys, 'argv', ['make', '--data_dir', empty])
  assert make_fashion_mnist_mini.main() == 2
  assert empty in capsys.readouterr().err


@pytest.fixture
def mini_path(tmp_path, monkeypatch):
  path = tmp_path / 'mini.npz'
  monkeypatch.setattr(fashion_mnist, '_MINI_PATH', str(path))
  return path


def test_mini_missing(mini_path):
  refused('fashion_mnist_mini', '', mini_path, 'install lit_jax again')


@pytest.mark.parametrize('damage', ['cut', 'text', 'flipped', 'empty', 'npy'])
def test_mini_damaged(damage, mini_path):
  whole = pathlib.Path(make_fashion_mnist_mini.PATH).read_bytes()
  array = io.BytesIO()
  np.save(array, np.zeros(3))
  damaged = {
    'cut': whole[:100000],
    'text': b'version https://example.org\n' * 10,
    'flipped': whole[:5000] + bytes(1000) + whole[6000:],
    'empty': b'',
    'npy': array.getvalue(),
  }[damage]
  mini_path.write_bytes(damaged)
  refused('fashion_mnist_mini', '', mini_path, 'install lit_jax again')


def test_mini_array_missing(mini_path):
  arrays = mini_arrays()
  del arrays['test_labels']
  np.savez(mini_path, **arrays)
  refused('fashion_mnist_mini', '', mini_path, 'test_labels')


def test_mini_wrong_shape(mini_path):
  arrays = mini_arrays()
  arrays['test_images'] = arrays['test_images'][1:]
  np.savez(mini_path, **arrays)
  refused('fashion_mnist_mini', '', mini_path, 'split test', '(999, 28')


def test_mini_label_out_of_range(mini_path):
  arrays = mini_arrays()
  arrays['train_labels'][5] = 99
  np.savez(mini_path, **arrays)
  refused('fashion_mnist_mini', '', mini_path, 'split train', 'label 5 is 99')


# Names and the validation split.


def test_names():
  known = ('cifar10', 'cifar100', 'fashion_mnist', 'fashion_mnist_mini')
  assert sources.NAMES == known


def test_unknown_name():
  refused('cifar-10', '', *sources.NAMES, "perhaps 'cifar10'")
  refused('fashon_mnist', '', "perhaps 'fashion_mnist'")
  refused('zzz', '', *sources.NAMES)
