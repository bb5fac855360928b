"""Archives and arrays, damaged or made up: right, or one line."""

import gzip
import hashlib
import io
import math
import os
import pickle
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from cases import HARMS, cases, harmed, outcome, refused, room
from hypothesis import example, given
from hypothesis import strategies as st

from lit_jax.data.images import checks, cifar, fashion_mnist
from lit_jax.networks import sparse

RECORDS = 2  # of each CIFAR file here
COUNTS = {'train': 3, 'test': 2}  # of Fashion-MNIST


@pytest.fixture(scope='module', autouse=True)
def small_sets():
  """Files of few records, of the real layout."""
  with pytest.MonkeyPatch.context() as patch:
    for name, facts in cifar._CIFAR.items():
      small = facts._replace(records={'train': RECORDS, 'test': RECORDS})
      patch.setitem(cifar._CIFAR, name, small)
    patch.setattr(fashion_mnist, '_COUNTS', COUNTS)
    patch.setenv('LIT_JAX_SYSTEM_DATA', '/nowhere')
    yield


# Archives of CIFAR.

FOLDER = 'cifar-10-batches-bin'
BATCHES = [f for names in cifar._CIFAR['cifar10'].files.values() for f in names]
KINDS = (
  tarfile.REGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE,
  tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
  tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b'Z',
)  # fmt: skip
MEMBER_NAMES = st.sampled_from([
  *(f'{FOLDER}/{file}' for file in BATCHES), '../beside', '../../beside',
  '/tmp/beside', f'{FOLDER}/../../beside', f'{FOLDER}/./{BATCHES[0]}',
  f'{FOLDER}/inner/{BATCHES[0]}', FOLDER, '.', '/', 'x' * 300, '\udcff\udc80',
  f'{FOLDER}/\n', 'a\x1b[2J',
])  # fmt: skip


def batch(seed):
  rng = np.random.default_rng(seed)
  records = rng.integers(0, 256, (RECORDS, 3073), np.uint8)
  records[:, 0] %= 10
  return records.tobytes()


GOOD_MEMBERS = [
  (f'{FOLDER}/{file}', tarfile.REGTYPE, batch(i))
  for i, file in enumerate(BATCHES)
]
MEMBERS = st.tuples(
  MEMBER_NAMES,
  st.sampled_from(KINDS),
  st.sampled_from([b'', b'x', b'9 a=b\n', batch(7), batch(8), b'5' * 6146]),
)


def tar(members, form=tarfile.GNU_FORMAT):
  raw = io.BytesIO()
  with tarfile.open(fileobj=raw, mode='w', format=form) as archive:
    for name, kind, content in members:
      info = tarfile.TarInfo(name)
      info.type, info.linkname, info.size = kind, '../../beside', len(content)
      try:
        archive.addfile(info, io.BytesIO(content))
      except ValueError:  # USTAR has no such long names.
        continue
  return raw.getvalue()


def packed(raw):
  return gzip.compress(raw, 1)


def put_archive(folder, raw, right_sum=True):
  facts = cifar._CIFAR['cifar10']
  (folder / facts.archive).write_bytes(raw)
  # Another than that of the case before, whose bytes may have been these.
  own = hashlib.md5(raw if right_sum else b'no archive').hexdigest()
  cifar._CIFAR['cifar10'] = facts._replace(md5=own)


def load_cifar(folder):
  dataset = cifar.load('cifar10', str(folder))
  assert set(dataset.splits) == {'train', 'test'}
  for split, count in (('train', 5 * RECORDS), ('test', RECORDS)):
    images, labels = dataset.splits[split]
    assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (count,) and labels.dtype == np.int32
    assert 0 <= labels.min() and labels.max() <= 9
  return dataset


def raw_of(dataset):
  """The bytes of the CIFAR files that a data set was read from."""
  parts = []
  for split in ('train', 'test'):
    images, labels = dataset.splits[split]
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    parts.append(np.concatenate([labels[:, None], planes], 1))
  return np.concatenate(parts).astype(np.uint8).tobytes()


@cases(0.2)
@given(
  st.lists(MEMBERS, max_size=4),
  st.lists(MEMBERS, max_size=4),
  st.sampled_from(
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
  ),
  st.none() | HARMS,
  st.none() | HARMS,
  st.booleans(),
  st.integers(0, 9),
)
def test_archives(before, after, form, inner, outer, twice, right):
  members = [*before, *GOOD_MEMBERS, *after]
  raw = tar(members, form)
  raw = packed(harmed(raw, inner) if inner else raw)
  raw = harmed(raw, outer) if outer else raw
  with room() as folder:
    put_archive(folder, packed(raw) if twice else raw, right > 0)
    found = outcome(lambda: load_cifar(folder))
  if found is None or inner or outer:
    # Whether the bytes are right is the checksum's to say.
    return
  assert right > 0 and not twice
  wanted = {}
  for name, kind, content in members:
    if kind in (tarfile.REGTYPE, tarfile.CONTTYPE, b'Z', KINDS[8]):
      wanted[os.path.normpath(name)] = content
  assert raw_of(found) == b''.join(wanted[f'{FOLDER}/{f}'] for f in BATCHES)


@cases(0.1)
@given(st.sampled_from(BATCHES), HARMS)
def test_files_of_cifar(name, harms):
  contents = {
    file: content
    for file, (_, _, content) in zip(BATCHES, GOOD_MEMBERS, strict=True)
  }
  contents[name] = harmed(contents[name], harms)
  with room() as folder:
    for file, content in contents.items():
      (folder / file).write_bytes(content)
    found = outcome(lambda: load_cifar(folder))
  if found is not None:
    assert raw_of(found) == b''.join(contents.values())


# IDX.

IDX = {
  'train-images-idx3-ubyte': (0x803, (COUNTS['train'], 28, 28)),
  'train-labels-idx1-ubyte': (0x801, (COUNTS['train'],)),
  't10k-images-idx3-ubyte': (0x803, (COUNTS['test'], 28, 28)),
  't10k-labels-idx1-ubyte': (0x801, (COUNTS['test'],)),
}
WORDS = st.one_of(
  st.integers(0, 2**32 - 1),
  st.sampled_from(
    [0, 1, 2, 3, 28, 60000, 0x801, 0x803, 0x80D, 2**31, 2**32 - 1]
  ),
)


def idx(magic, shape):
  header = np.array([magic, *shape], '>u4').tobytes()
  return header + bytes(i % 10 for i in range(math.prod(shape)))


@cases(0.1)
@given(
  st.sampled_from(list(IDX)),
  st.none() | st.lists(WORDS, max_size=5),
  st.none() | HARMS,
  st.none() | HARMS,
  st.booleans(),
)
def test_idx_files(name, header, inner, outer, gzipped):
  contents = {file: idx(*facts) for file, facts in IDX.items()}
  raw = contents[name]
  if header is not None:
    raw = np.array(header, '>u4').tobytes() + raw[4 * (1 + len(IDX[name][1])) :]
  raw = contents[name] = harmed(raw, inner) if inner else raw
  with room() as folder:
    for file, content in contents.items():
      content = packed(content) if gzipped else content
      if outer and file == name:
        content = harmed(content, outer)
      path = folder / (f'{file}.gz' if gzipped else file)
      path.write_bytes(content)
    found = outcome(lambda: fashion_mnist.load('fashion_mnist', str(folder)))
  if found is None or outer:
    return
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images, labels = found.splits[split]
    assert images.shape == (COUNTS[split], 28, 28, 1)
    assert labels.shape == (COUNTS[split],) and set(labels) <= set(range(10))
    assert images.tobytes() == contents[f'{prefix}-images-idx3-ubyte'][16:]
    assert bytes(labels.tolist()) == contents[f'{prefix}-labels-idx1-ubyte'][8:]


# Arrays of NumPy.

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype(np.float32)
VARIABLES = {
  'params': {'a': {'kernel': KERNEL, 'bias': np.ones(2, np.float32)}}
}
NPY_HEADERS = st.sampled_from([
  "{'descr': '<f4', 'fortran_order': False, 'shape': (10**15,)}",
  "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,)}",
  "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
  "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
  "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2, 3, 3)}",
  "{'descr': '<f4', 'fortran_order': False, 'shape': (", '(' * 9000, '\udcff',
  "{'descr': '<f9999999999', 'fortran_order': False, 'shape': (2,)}",
  "{'descr': [('x', '<f4'), ('x', '<f4')], 'fortran_order': 0, 'shape': ()}",
  '"""', '{', '\\\n', "f'{", '9' * 5000, '\n  1\n 2',
])  # fmt: skip


def npz(name='', header=None, kind=0, flags=0):
  """The file of VARIABLES, of which one entry has another header."""
  file = io.BytesIO()
  flat = {f'params/a/{k}': v for k, v in VARIABLES['params']['a'].items()}
  np.savez(file, **flat)
  raw = bytearray(file.getvalue())
  if header is not None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
      for own, array in flat.items():
        content = header.encode('utf-8', 'surrogateescape').ljust(117) + b'\n'
        head = b'\x93NUMPY\x01\0' + len(content).to_bytes(2, 'little')
        content = head + content + array.tobytes()
        if own != name:
          inner = io.BytesIO()
          np.save(inner, array)
          content = inner.getvalue()
        archive.writestr(f'{own}.npy', content)
    raw = bytearray(file.getvalue())
  # How it is packed, and whether there is a password, as ZIP has it.
  place = raw.rfind(b'PK\1\2')
  raw[place + 10] ^= kind
  raw[place + 8] ^= flags
  return bytes(raw)


@cases(0.15)
@example('params/a/kernel', '{', 0, 0, None)
@example('params/a/kernel', '(' * 9000, 0, 0, None)
@example('params/a/kernel', None, 99, 0, None)
@example('params/a/kernel', None, 0, 1, None)
@given(
  st.sampled_from(['params/a/kernel', 'params/a/bias']),
  st.none() | NPY_HEADERS,
  st.sampled_from([0, 0, 0, 0, 1, 8, 12, 14, 99]),
  st.sampled_from([0, 0, 0, 0, 0, 1]),
  st.none() | HARMS,
)
def test_arrays(name, header, kind, flags, harms):
  raw = npz(name, header, kind, flags)
  raw = harmed(raw, harms) if harms else raw
  names = ['params/a/kernel', 'params/a/bias']
  with room() as folder:
    path = folder / 'net.npz'
    path.write_bytes(raw)
    found = outcome(lambda: sparse.read(path, VARIABLES))
    arrays = outcome(
      lambda: checks.read_arrays(str(path), names, 200, 'get another')
    )
  for own in ('kernel', 'bias'):
    wanted = VARIABLES['params']['a'][own]
    if found is not None and not header:
      np.testing.assert_array_equal(found['params']['a'][own], wanted)
    if arrays is not None and not header:
      np.testing.assert_array_equal(arrays[f'params/a/{own}'], wanted)


# Pickles, bombs and pipes.


OBJECTS = np.array([{'a': 1}, print], object)


@pytest.mark.parametrize('kind', ['file', 'archive'])
def test_no_pickle_of_cifar_is_read(kind, unpickled):
  """The data set is published as pickles for Python as well."""
  raw = pickle.dumps(
    {b'data': np.zeros((2, 3072), np.uint8), b'labels': [0, 1]}
  )
  with room() as folder:
    for file in BATCHES:
      (folder / file).write_bytes(raw)
    if kind == 'archive':
      members = [(f'{FOLDER}/{file}', tarfile.REGTYPE, raw) for file in BATCHES]
      put_archive(folder, packed(tar(members)))
    assert 'bytes, not' in refused(lambda: load_cifar(folder))


@pytest.mark.parametrize('kind', ['npz', 'npy', 'pickle'])
def test_no_pickle_of_arrays_is_read(kind, unpickled):
  with room() as folder:
    path = folder / 'net.npz'
    with path.open('wb') as f:
      if kind == 'npz':
        np.savez(f, **{'params/a/bias': OBJECTS})
      elif kind == 'npy':
        np.save(f, OBJECTS)
      else:
        pickle.dump({'params/a/bias': OBJECTS}, f)
    names = ['params/a/bias']
    refused(lambda: checks.read_arrays(str(path), names, 1000, 'get another'))
    refused(lambda: sparse.read(path, VARIABLES))


def _bomb_in_an_archive(folder, zeros):
  members = [('other', tarfile.REGTYPE, zeros)]
  members += [(f'{FOLDER}/{BATCHES[0]}', tarfile.REGTYPE, zeros)]
  put_archive(folder, packed(tar(members + GOOD_MEMBERS[1:])))
  return lambda: load_cifar(folder)


def _bomb_in_idx(folder, zeros):
  for file, facts in IDX.items():
    (folder / f'{file}.gz').write_bytes(packed(idx(*facts) + zeros))
  return lambda: fashion_mnist.load('fashion_mnist', str(folder))


def _bomb_in_arrays(folder, zeros):
  path = folder / 'net.npz'
  flat = {f'params/a/{k}': v for k, v in VARIABLES['params']['a'].items()}
  flat['params/a/bias'] = np.frombuffer(zeros, np.float32)
  np.savez_compressed(path, **flat)
  return lambda: sparse.read(path, VARIABLES)


def _bomb_in_own_arrays(folder, zeros):
  _bomb_in_arrays(folder, zeros)
  path, names = str(folder / 'net.npz'), ['params/a/bias']
  return lambda: checks.read_arrays(path, names, 1000, 'get another')


@pytest.mark.parametrize(
  'bomb',
  [_bomb_in_an_archive, _bomb_in_idx, _bomb_in_arrays, _bomb_in_own_arrays],
)
def test_what_is_unpacked_is_bounded(bomb):
  with room() as folder:
    load = bomb(folder, bytes(1 << 24))
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 1 << 21
    tracemalloc.start()
    try:
      refused(load)
      assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
      tracemalloc.stop()


@pytest.mark.parametrize(
  'name', ['cifar-10-binary.tar.gz', BATCHES[0], 't10k-labels-idx1-ubyte.gz']
)
def test_no_pipe_is_waited_for(name):
  with room() as folder:
    for file in IDX:
      (folder / file).write_bytes(idx(*IDX[file]))
    os.mkfifo(folder / name)
    if name.startswith('t10k'):
      refused(lambda: fashion_mnist.load('fashion_mnist', str(folder)), 10)
    else:
      refused(lambda: load_cifar(folder), 10)
