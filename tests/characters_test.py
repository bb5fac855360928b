"""Tests of lit_jax.data.texts.characters against a slow reference."""

import string

import numpy as np
import pyarrow as pa
import pytest

from lit_jax.data.texts import characters

TYPES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def reference(value, length):
  """One text, a character at a time."""
  row = []
  for character in (value or '')[:length]:
    if character in '\t\n\r':
      character = ' '
    if character in string.ascii_uppercase:
      character = character.lower()
    known = character in characters.SYMBOLS
    row.append(characters.SYMBOLS.index(character) + 1 if known else 70)
  return row + [0] * (length - len(row))


def random_texts(seed, length, count):
  """Characters of 1 to 4 bytes; every third text has a telling length."""
  rng = np.random.default_rng(seed)
  ranges = ((0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0x10000, 0x110000))
  texts = []
  for i in range(count):
    telling = (0, 1, length - 1, length, length + 1)
    size = telling[i % 5] if i % 3 == 0 else rng.integers(0, 3 * length)
    kinds = rng.choice(4, size, p=((0.7, 0.1, 0.1, 0.1), (1, 0, 0, 0))[i % 2])
    texts.append(''.join(chr(rng.integers(*ranges[k])) for k in kinds))
  return texts


def test_alphabet():
  assert len(characters.SYMBOLS) == 69 == len(set(characters.SYMBOLS))
  kinds = string.ascii_lowercase, string.digits, string.punctuation, ' '
  assert set(characters.SYMBOLS) == set(''.join(kinds))
  assert (characters.PADDING, characters.UNKNOWN, characters.VOCABULARY) == (
    0,
    70,
    71,
  )


def test_rows_by_hand():
  rows = characters.encode(
    pa.array(['aZ é', '!\t1\r\n~', '', None, 'a😀bc']), 5
  )
  # ' ' is 1, '!' 2, '0' 17, '@' 33, 'a' 40, 'z' 65, '~' 69.
  assert rows.tolist() == [
    [40, 65, 1, 70, 0],
    [2, 1, 18, 1, 1],
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [40, 70, 41, 42, 0],
  ]
  assert rows.dtype == np.uint8
  everything = characters.encode(pa.array([characters.SYMBOLS]), 70)
  assert everything.tolist() == [[*range(1, 70), 0]]


@pytest.mark.parametrize('kind', TYPES, ids=str)
@pytest.mark.parametrize('piece', [1, 50, 1 << 21])
def test_as_the_reference(kind, piece, monkeypatch):
  monkeypatch.setattr(characters, '_PIECE', piece)
  for seed, length in enumerate((1, 2, 7, 40)):
    texts = random_texts(seed, length, 60)
    texts[7] = texts[59] = None
    expected = [reference(t, length) for t in texts]
    binary = [None if t is None else t.encode() for t in texts]
    array = pa.array(binary, pa.binary()).cast(kind)
    assert characters.encode(array, length).tolist() == expected
    assert characters.encode(array[9:42], length).tolist() == expected[9:42]
    chunks = pa.chunked_array([array[3:20], array[:0], array[30:]])
    assert (
      characters.encode(chunks, length).tolist()
      == expected[3:20] + expected[30:]
    )


def test_bytes_behind_a_null():
  texts = pa.Array.from_buffers(
    pa.string(),
    3,
    [
      pa.py_buffer(b'\x05'),
      pa.py_buffer(np.array([0, 1, 3, 4], np.int32)),
      pa.py_buffer(b'abcd'),
    ],
  )
  assert texts.to_pylist() == ['a', None, 'd']
  assert characters.encode(texts, 2).tolist() == [[40, 0], [0, 0], [43, 0]]


@pytest.mark.parametrize('texts', [[], ['', ''], [None]])
def test_nothing(texts):
  rows = characters.encode(pa.array(texts, pa.string()), 3)
  assert rows.shape == (len(texts), 3) and not rows.any()


def test_refused():
  with pytest.raises(ValueError, match='length 0'):
    characters.encode(pa.array(['a']), 0)
  with pytest.raises(TypeError, match='int64'):
    characters.encode(pa.array([1]), 4)


def test_decode(monkeypatch):
  monkeypatch.setattr(characters, '_PIECE', 64)
  texts = random_texts(5, 30, 50)
  rows = characters.encode(pa.array(texts), 30)

  def back(value):
    symbols = ['\0', *characters.SYMBOLS, '\ufffd']
    return ''.join(symbols[i] for i in reference(value, 30)).rstrip('\0')

  assert characters.decode(rows) == [back(t) for t in texts]
  known = ['Good\tcoffee, 5/5!', '', ' led by a space ']
  rows = characters.encode(pa.array(known), 20)
  assert characters.decode(rows) == [
    'good coffee, 5/5!',
    '',
    ' led by a space ',
  ]
  assert characters.decode(rows[:0]) == []
  with pytest.raises(IndexError):
    characters.decode(np.full((1, 4), characters.VOCABULARY, np.uint8))
