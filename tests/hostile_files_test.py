"""Texts and images, damaged or made up: right, or one line."""

import csv
import io
import json
import os
import re
import warnings
import zlib

import numpy as np
import pytest
from cases import HARMS, JSON, cases, harmed, outcome, refused, room
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from lit_jax.data.portraits import pictures
from lit_jax.data.portraits import sources as portraits
from lit_jax.data.portraits.sources import PortraitOptions
from lit_jax.data.texts import characters
from lit_jax.data.texts import sources as texts
from lit_jax.data.texts.sources import TextOptions

# Texts.

FIELDS = st.one_of(
  st.text('ab ,"\n\r\t\\\'', max_size=8),
  st.text(max_size=12),
  st.sampled_from(['\0', '\ufeff', '\x1a', '\u2028', '"', '""', 'x' * 140_000]),
)
USUAL = st.sampled_from(['pos', 'neg', '1', '2', ' 1', '-1'])
LABELS = st.one_of(USUAL, st.sampled_from(['', 'x' * 300]), FIELDS)
ROWS = st.lists(st.tuples(LABELS, FIELDS, FIELDS), min_size=1, max_size=6)
USUAL_ROWS = st.lists(
  st.tuples(USUAL, st.just('so ') | FIELDS.filter(bool), FIELDS), max_size=6
)
HEADERS = st.sampled_from([
  *[['label', 'text', 'more'], ['more', 'label', 'text']] * 3,
  ['label', 'text', 'text'], ['label', 'text'], ['text', 'more', 'more'],
])  # fmt: skip
UNQUOTED = -1  # as it is


def written(rows, header, end, quoting, mark):
  rows = [header, *(row[: len(header)] for row in rows)]
  file = io.StringIO()
  if quoting == UNQUOTED:
    file.writelines(','.join(row) + end for row in rows)
  else:
    csv.writer(file, lineterminator=end, quoting=quoting).writerows(rows)
  return mark + file.getvalue().encode('utf-8', 'surrogatepass')


def as_read(raw):
  """What Python's csv module reads, texts by label; None of what is wrong."""
  text = raw.decode('utf-8-sig', 'surrogateescape')
  before = csv.field_size_limit(1 << 30)
  try:
    header, *rows = [r for r in csv.reader(io.StringIO(text, newline='')) if r]
  finally:
    csv.field_size_limit(before)
  if any(len(row) != len(header) for row in rows):
    return None
  dicts = [dict(zip(header, row, strict=True)) for row in rows]
  found = [(row['label'].strip(), row['text']) for row in dicts]
  # What is no UTF-8 matters in these alone.
  right = all(re.search('[\udc80-\udcff]', a + b) is None for a, b in found)
  return found if right else None


def ids(text, length):
  known = {c: i for i, c in enumerate(characters.SYMBOLS, 1)}
  known |= {c: known[' '] for c in '\t\n\r'}
  known |= {c.upper(): i for c, i in known.items() if c.upper().isascii()}
  found = [known.get(c, characters.UNKNOWN) for c in text[:length]]
  return found + [0] * (length - len(found))


def load_texts(folder, **options):
  options = TextOptions(
    path=str(folder), length=8, cache=str(folder.parent / 'cache'), **options
  )
  return texts.load('own', '', options)


def assert_as_read(dataset, split, raw):
  wanted = as_read(raw)
  assert wanted is not None, raw
  inputs, labels = dataset.splits[split]
  found = [dataset.class_names[label] for label in labels]
  assert found == [label for label, _ in wanted]
  np.testing.assert_array_equal(inputs, [ids(text, 8) for _, text in wanted])


@cases(0.3)
@given(
  ROWS | USUAL_ROWS,
  HEADERS,
  st.sampled_from(['\n', '\r\n', '\r']),
  st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, UNQUOTED]),
  st.sampled_from([b'', b'', b'\xef\xbb\xbf', b'\xff\xfe']),
  st.none() | HARMS,
  st.sampled_from(['stop', 'stop', 'stop', 'skip']),
)
def test_csv_files(rows, header, end, quoting, mark, harms, on_bad):
  rows = [('pos', 'a', 'b'), ('neg', 'b', 'a'), *rows]
  raw = written(rows, header, end, quoting, mark)
  raw = harmed(raw, harms) if harms else raw
  test = b'label,text\npos,good\nneg,bad\n'
  with room() as folder:
    (folder / 'train.csv').write_bytes(raw)
    (folder / 'test.csv').write_bytes(raw if on_bad == 'stop' else test)
    found = outcome(lambda: load_texts(folder, on_bad=on_bad))
    if found is not None and on_bad == 'stop':
      assert_as_read(found, 'train', raw)
      assert_as_read(found, 'test', raw)


@cases(0.1)
@given(ROWS, st.sampled_from(['\n', '\r\n']), st.booleans())
def test_csv_files_that_are_right(rows, end, mark):
  rows = [
    (label.strip() or 'none', text or 'none', more)
    for label, text, more in rows
  ]
  rows = [row for row in rows if len(row[0]) < 100]
  rows += [('one', 'a', ''), ('two', 'b', '')]
  header = ['label', 'text', 'more']
  raw = written(rows, header, end, csv.QUOTE_ALL, b'\xef\xbb\xbf' * mark)
  with room() as folder:
    for split in ('train', 'test'):
      (folder / f'{split}.csv').write_bytes(raw)
    # Not refused.
    assert_as_read(load_texts(folder), 'train', raw)


# Images.

MODES = ('1', 'L', 'P', 'LA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I;16', 'I', 'F')
FORMATS = ('PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'PPM', 'EPS', 'ICO')
PRECISE = ('I;16', 'I', 'F')  # of more than eight bits


def picture(mode, form, width, height):
  """The bytes of an image, or None where the format has no such mode."""
  rng = np.random.default_rng(width + 100 * height)
  if mode in PRECISE:
    kinds = {'I;16': np.uint16, 'I': np.int32, 'F': np.float32}
    pixels = (rng.random((height, width)) * 60000).astype(kinds[mode])
    image = Image.fromarray(pixels)
  else:
    pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
    image = Image.fromarray(pixels, 'RGBA').convert('RGB').convert(mode)
  file = io.BytesIO()
  try:
    image.save(file, form)
  except (OSError, ValueError, KeyError):
    return None
  # Some formats have fewer bits, and make others of them.
  kept = mode not in PRECISE or Image.open(file).mode in PRECISE
  return file.getvalue() if kept else None


def declared(raw, form, width, height):
  """The image with other dimensions in its header."""
  size = [side.to_bytes(4, 'big') for side in (width, height)]
  if form == 'PNG':
    head = raw[12:16] + size[0] + size[1] + raw[24:29]
    return raw[:12] + head + zlib.crc32(head).to_bytes(4, 'big') + raw[33:]
  little = [side.to_bytes(4, 'little') for side in (width, height)]
  if form == 'GIF':
    return raw[:6] + little[0][:2] + little[1][:2] + raw[10:]
  if form == 'BMP':
    return raw[:18] + little[0] + little[1] + raw[26:]
  place = raw.find(b'\xff\xc0')
  if form == 'JPEG' and place > 0:
    return raw[: place + 5] + size[1][2:] + size[0][2:] + raw[place + 9 :]
  return raw


SIDES = st.integers(1, 40)
HUGE = st.sampled_from(
  [0, 1, 8, 9000, 20000, 65535, 2**20, 2**31 - 1, 2**32 - 1]
)


@cases(0.25)
@example('I;16', 'PNG', 9, 9, None, None, 0)
@example('F', 'TIFF', 9, 9, None, None, 0)
@example('RGB', 'PPM', 9, 9, None, None, 0)
@given(
  st.sampled_from(MODES),
  st.sampled_from(FORMATS),
  SIDES,
  SIDES,
  st.none() | st.tuples(HUGE, HUGE),
  st.none() | HARMS,
  st.sampled_from([0, 0, 4, 16]),
)
def test_images(mode, form, width, height, header, harms, crop):
  whole = picture(mode, form, width, height)
  if whole is None:
    return
  raw = declared(whole, form, *header) if header else whole
  raw = harmed(raw, harms) if harms else raw
  with room() as folder:
    path = folder / 'x.png'
    path.write_bytes(raw)

    def read():
      return pictures.read(str(path), 8, crop)

    found = outcome(read, pictures.Unusable)
    path.write_bytes(whole)
    right = outcome(read, pictures.Unusable)
  for one in (found, right):
    if one is not None:
      assert one.shape == (8, 8, 3) and one.dtype == np.uint8
  known = form in ('PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP')
  fits = crop <= min(width, height) and mode not in PRECISE
  assert (right is not None) == (known and fits)
  if (
    found is not None and not header and {h[0] for h in harms or ()} == {'cut'}
  ):
    # Nothing but what follows the pixels was lost.
    np.testing.assert_array_equal(found, right)


@cases(0.1)
@example(['\x1b'], [b'', b'', b''], 'stop')
@example(['\udcff'], [b'', b'', b''], 'stop')
@given(
  st.lists(
    st.text('ab.\n\x1b\udcff\u2028', min_size=1, max_size=8), max_size=3
  ),
  st.lists(st.binary(max_size=50), min_size=3, max_size=3),
  st.sampled_from(['stop', 'skip']),
)
def test_folders_of_images(names, contents, on_bad):
  good = picture('RGB', 'PNG', 9, 9)
  with room() as folder:
    for domain in ('a', 'b'):
      (folder / domain).mkdir()
      for i in range(3):
        (folder / domain / f'{i}.png').write_bytes(good)
    for name, content in zip(names, contents, strict=False):
      path = (
        os.fsencode(folder / 'a') + b'/' + name.encode(errors='surrogateescape')
      )
      with open(path + b'.png', 'wb') as f:
        f.write(content)
    options = PortraitOptions(
      path=str(folder), image_size=16, on_bad=on_bad,
      cache=str(folder.parent / 'cache'),
    )  # fmt: skip
    found = outcome(lambda: portraits.load('domains', '', options))
    # Names that begin with a dot are passed over.
    bad = {name for name in names if not name.startswith('.')}
    if on_bad == 'stop' and bad:
      assert found is None
      return
    count = sum(split.examples for split in found.splits.values())
    assert count == 6


LISTS = st.text('01-\n \x1b\u2028ab./', max_size=30)


@cases(0.1)
@example(None, '', '\udcff')
@given(st.none() | HARMS, LISTS, st.sampled_from(['x', '\udcff', '\n', 'é']))
def test_lists_of_celeba(harms, text, name):
  good, raw = picture('RGB', 'PNG', 180, 180), b'6\nMale Young\n'
  raw += b''.join(b'%d.png 1 -1\n' % i for i in range(6))
  raw = harmed(raw, harms) if harms else raw + text.encode()
  with room() as folder:
    images = folder / 'img_align_celeba'
    images.mkdir()
    for own in (*'012345', name):
      with open(os.fsencode(images / f'{own}.png'), 'wb') as f:
        f.write(good)
    (folder / 'list_attr_celeba.txt').write_bytes(raw)
    options = PortraitOptions(
      path=str(folder), image_size=16, attributes='Young,Male',
      cache=str(folder.parent / 'cache'), on_bad='skip',
    )  # fmt: skip
    found = outcome(lambda: portraits.load('celeba', '', options))
    if found is not None and not harms:
      for split in found.splits.values():
        assert set(map(tuple, split.inputs['label'])) == {(0, 1)}


# What was prepared before.


def _prepared_texts(folder):
  content = 'label,text\npos,good\nneg,bad\n'
  for split in ('train', 'test'):
    (folder / f'{split}.csv').write_text(content)
  return lambda: load_texts(folder)


def _prepared_images(folder):
  for domain in ('a', 'b'):
    (folder / domain).mkdir()
    for i in range(3):
      path = folder / domain / f'{i}.png'
      path.write_bytes(picture('RGB', 'PNG', 9 + i, 9))
      os.utime(path, (1, 1))
  cache = str(folder.parent / 'cache')
  options = PortraitOptions(path=str(folder), image_size=16, cache=cache)
  return lambda: portraits.load('domains', '', options)


META = (
  'format', 'key', 'symbols', 'length', 'size', 'counts', 'classes', 'names',
  'content', 'notes',
)  # fmt: skip


@cases(0.1)
@example(_prepared_images, None, 2, [('flip', 0.5, 0, b'')])
@example(_prepared_texts, ('counts', {'train': float('inf')}), 0, [])
@given(
  st.sampled_from([_prepared_texts, _prepared_images]),
  st.none() | st.tuples(st.sampled_from(META), JSON),
  st.integers(0, 10),
  HARMS,
)
def test_entries_of_the_cache(prepare, change, which, harms):
  with room() as folder:
    load = prepare(folder)
    load()
    (entry,) = (folder.parent / 'cache').iterdir()
    meta = json.loads((entry / 'meta.json').read_text())
    if change:
      key, value = change
      was, meta[key] = meta.get(key), value
      (entry / 'meta.json').write_text(json.dumps(meta))
      found = outcome(load)
      # Names and notes may be any, and what is no key of this entry.
      if was is not None and key in ('format', 'key', 'length', 'size'):
        assert (found is None) == (value != was)
      return
    paths = sorted(p for p in entry.iterdir() if p.suffix != '.images')
    path = paths[which % len(paths)]
    path.write_bytes(harmed(path.read_bytes(), harms))
    found = outcome(load)
    if found is not None:
      assert set(found.splits) == {'train', 'test'}


# Pickles, programs and pipes.


@pytest.mark.parametrize('prepare', [_prepared_texts, _prepared_images])
def test_no_pickle_of_the_cache_is_read(prepare, unpickled):
  with room() as folder:
    load = prepare(folder)
    load()
    (entry,) = (folder.parent / 'cache').iterdir()
    np.save(entry / 'train_labels.npy', np.array([{'a': 1}], object))
    refused(load)


def test_images_that_declare_many_pixels(tmp_path):
  raw = declared(picture('1', 'PNG', 9, 9), 'PNG', 9400, 9600)
  (tmp_path / 'x.png').write_bytes(raw)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    with pytest.raises(pictures.Unusable, match='9400x9600, of more than'):
      pictures.read(str(tmp_path / 'x.png'), 8)


def test_no_image_is_a_program(tmp_path, monkeypatch):
  """For PostScript, Pillow would start an interpreter."""
  started = []
  monkeypatch.setattr(
    EpsImagePlugin, 'Ghostscript', lambda *args: started.append(args)
  )
  path = tmp_path / 'x.png'
  path.write_bytes(picture('RGB', 'EPS', 9, 9))
  with pytest.raises(pictures.Unusable):
    pictures.read(str(path), 8)
  assert not started


@pytest.mark.parametrize(
  'name', ['train.csv', 'a/x.png', 'list_attr_celeba.txt']
)
def test_no_pipe_is_waited_for(name):
  with room() as folder:
    cache = str(folder.parent / 'cache')
    options = PortraitOptions(path=str(folder), image_size=16, cache=cache)
    (folder / 'test.csv').write_text('label,text\na,b\n')
    for domain in ('a', 'b', 'img_align_celeba'):
      (folder / domain).mkdir()
      for i in range(2):
        (folder / domain / f'{i}.png').write_bytes(picture('RGB', 'PNG', 9, 9))
    os.mkfifo(folder / name)
    if name == 'train.csv':
      refused(lambda: load_texts(folder), 10)
    else:
      kind = 'domains' if name == 'a/x.png' else 'celeba'
      refused(lambda: portraits.load(kind, '', options), 10)
