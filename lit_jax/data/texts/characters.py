"""Texts as rows of character ids, and back.

0 is padding, 1 to 69 are the characters of SYMBOLS, 70 is any other one.
"""

import string
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  import pyarrow as pa

# The printable ASCII characters without capitals, the space first.
SYMBOLS = ''.join(
  sorted(set(map(chr, range(32, 127))) - set(string.ascii_uppercase))
)
PADDING = 0
UNKNOWN = len(SYMBOLS) + 1
VOCABULARY = UNKNOWN + 1

# In UTF-8 these are the second to fourth bytes of a character. Without them
# each character is one byte.
_CONTINUATION = bytes(range(0x80, 0xC0))
_BLANKS = '\t\n\r'
# Bytes of ids made at a time: what a core's cache holds is made twice as fast.
_PIECE = 1 << 21
# The character of each id, as a code point.
_CHARACTERS = np.array([0, *map(ord, SYMBOLS), 0xFFFD], np.uint32)


def _table() -> bytes:
  """The id of each byte."""
  table = bytearray([UNKNOWN]) * 256
  for number, symbol in enumerate(SYMBOLS, 1):
    table[ord(symbol)] = table[ord(symbol.upper())] = number
  for blank in _BLANKS:
    table[ord(blank)] = table[ord(' ')]
  return bytes(table)


_TABLE = _table()


def encode(texts: 'pa.Array | pa.ChunkedArray', length: int) -> np.ndarray:
  """Turns texts into rows of character ids.

  ASCII capitals count as small letters; tab, newline and carriage return as a
  space. A text is cut after `length` characters, or padded with 0.

  Args:
    texts: n strings, or the binary of valid UTF-8; null is as ''.
    length: of a row, at least 1.

  Returns:
    uint8 [n, length].

  Raises:
    TypeError: `texts` are of another type.
    ValueError: `length` is below 1.
  """
  if length < 1:
    raise ValueError(f'length {length} is below 1')
  ids = np.empty((len(texts), length), np.uint8)
  chunks: Any = getattr(texts, 'chunks', [texts])
  piece = max(1, _PIECE // length)
  row = 0
  for chunk in chunks:
    for start in range(0, len(chunk), piece):
      part = chunk.slice(start, piece)
      _fill(ids[row : row + len(part)], part)
      row += len(part)
  return ids


def _fill(ids: np.ndarray, texts: Any) -> None:
  """Writes the ids of n texts, 1 or more, into [n, length]."""
  length = ids.shape[1]
  symbols, starts, lengths = _symbols(texts)
  # Behind each start are the text, then the texts after it, which are cleared.
  padded = np.frombuffer(symbols + bytes(length), np.uint8)
  windows = np.lib.stride_tricks.sliding_window_view(padded, length)
  inside = np.arange(length, dtype=np.int32) < lengths[:, None]
  np.multiply(windows[starts], inside.view(np.uint8), out=ids)


def _symbols(texts: Any) -> tuple[bytes, np.ndarray, np.ndarray]:
  """All ids in a row; each text's first, int64 [n], and count, int32 [n]."""
  bounds = _bounds(texts)
  data = texts.buffers()[2]
  raw = data[bounds[0] : bounds[-1]].to_pybytes() if data else b''
  bounds = bounds - bounds[0]
  symbols = raw.translate(_TABLE, _CONTINUATION)
  if len(symbols) < len(raw):
    kinds = np.frombuffer(raw, np.uint8) & 0xC0
    dropped = np.flatnonzero(kinds == 0x80)
    bounds = bounds - np.searchsorted(dropped, bounds)
  lengths = np.diff(bounds).astype(np.int32)
  if texts.null_count:
    # There may be bytes behind a null.
    lengths[texts.is_null().to_numpy(zero_copy_only=False)] = 0
  return symbols, bounds[:-1], lengths


def _bounds(texts: Any) -> np.ndarray:
  """Where each text starts in the data, and the last one ends: int64 [n + 1]"""
  # Here, for it takes long to load, and who has no texts needs just the ids.
  import pyarrow as pa

  kind = texts.type
  if kind in (pa.string(), pa.binary()):
    dtype = np.dtype(np.int32)
  elif kind in (pa.large_string(), pa.large_binary()):
    dtype = np.dtype(np.int64)
  else:
    raise TypeError(f'texts are of type {kind}, not strings or binary')
  bounds = np.frombuffer(
    texts.buffers()[1], dtype, len(texts) + 1, texts.offset * dtype.itemsize
  )
  return bounds.astype(np.int64)


def decode(ids: Any) -> list[str]:
  """Turns rows of character ids back into texts.

  Args:
    ids: uint8 [n, length] below VOCABULARY, or what slices into such an array.

  Returns:
    n texts of up to `length` characters; an unknown one is U+FFFD.

  Raises:
    IndexError: an id is VOCABULARY or above.
  """
  count, length = ids.shape
  piece = max(1, _PIECE // length)
  texts = []
  for start in range(0, count, piece):
    # numpy's strings have four bytes a character and end before zeros.
    points = _CHARACTERS[np.asarray(ids[start : start + piece])]
    texts += points.view(f'=U{length}')[:, 0].tolist()
  return texts
