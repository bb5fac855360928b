"""Sheets of images: what each method makes of the same examples, in one PNG.

A row of the results names its own sheet, a file of tiles without margins. Here
those of all methods are joined example by example, under the same headings.
"""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lit_jax.report.columns import TEACHER
from lit_jax.report.rows import Row

_EXAMPLES = 4
_TILE = 64  # pixels that a tile has at least
_GAP, _FONT = 3, 13
_LETTERS = 60  # of a name
_INK = '#1f2328'


class _Tiles(NamedTuple):
  """Attributes: whose they are; uint8 [examples, columns, h, w, 3]."""

  name: str
  images: np.ndarray


def draw(
  workdir: pathlib.Path, found: Sequence[Row], examples: int = _EXAMPLES
) -> dict[str, bytes]:
  """The joined sheets, PNG by title.

  Args:
    workdir: below which the rows' files lie; what cannot be read is left out.
    found: the rows of the results. Of untrained networks there is nothing to
      see, and theirs are left out.
    examples: shown at most.
  """
  shown = [r for r in found if r.epochs or r.method == TEACHER]
  titles = dict.fromkeys(title for row in shown for title in _sheets(row))
  drawn = {title: _joined(workdir, shown, title, examples) for title in titles}
  return {title: png for title, png in drawn.items() if png}


def _sheets(row: Row) -> dict[str, Any]:
  # null says as much as nothing.
  return row.value('sheets') or {}


def _joined(workdir, shown, title, examples) -> bytes | None:
  tiles, headings = [], []
  for row in shown:
    sheet = _sheets(row).get(title)
    if sheet is None:
      continue
    headings = headings or [str(c)[:_LETTERS] for c in sheet['columns']]
    wanted = [('true', 'truth')] if not tiles else []
    for name, key in (*wanted, (row.method, 'file')):
      images = read(workdir, sheet, key)
      if images is not None:
        tiles.append(_Tiles(name[:_LETTERS], images))
  shape = tiles[0].images.shape if tiles else ()
  tiles = [own for own in tiles if own.images.shape == shape]
  tiles = [_Tiles(own.name, own.images[:examples]) for own in tiles]
  return _drawn(tiles, headings) if tiles else None


def read(
  workdir: pathlib.Path, sheet: Mapping[str, Any], key: str = 'file'
) -> np.ndarray | None:
  """The tiles of a sheet, uint8 [rows, columns, h, w, 3].

  Args:
    workdir: below which its file lies.
    sheet: as a row of the results has it.
    key: 'file', or 'truth' for what the images should be.

  Returns:
    None where the file is missing or cannot be read.
  """
  rows, columns = sheet['rows'], len(sheet['columns'])
  path = workdir / sheet.get(key, '')
  if not path.is_file():  # a pipe would be waited for
    return None
  try:
    with Image.open(path, formats=('PNG',)) as image:
      pixels = np.asarray(image.convert('RGB'))
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    tiles = pixels[: rows * height, : columns * width]
    tiles = tiles.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
  # Pillow raises errors of every kind.
  except Exception:
    return None
  # Of fewer pixels than tiles nothing is left.
  return tiles if tiles.size else None


def _drawn(tiles: Sequence[_Tiles], headings: Sequence[str]) -> bytes:
  examples, columns, height, width, _ = tiles[0].images.shape
  scale = max(1, -(-_TILE // width))
  width, height = width * scale, height * scale
  font = ImageFont.load_default(size=_FONT)
  left = max(int(font.getlength(own.name)) for own in tiles) + 4 * _GAP
  lines = [_wrapped(text, font, width) for text in headings]
  top = max(map(len, lines)) * (_FONT + 3) + 2 * _GAP
  step = height + _GAP
  block = len(tiles) * step + 3 * _GAP
  size = left + columns * (width + _GAP), top + examples * block - 3 * _GAP
  page = Image.new('RGB', size, 'white')
  pen = ImageDraw.Draw(page)
  for column, words in enumerate(lines):
    x = left + column * (width + _GAP)
    pen.multiline_text((x, _GAP), '\n'.join(words), _INK, font, spacing=3)
  for example in range(examples):
    for row, own in enumerate(tiles):
      y = top + example * block + row * step
      middle = y + (height - _FONT) // 2
      pen.text((_GAP, middle), own.name, _INK, font)
      for column in range(columns):
        tile = Image.fromarray(own.images[example, column])
        tile = tile.resize((width, height), Image.Resampling.NEAREST)
        page.paste(tile, (left + column * (width + _GAP), y))
  file = io.BytesIO()
  page.save(file, 'PNG')
  return file.getvalue()


def _wrapped(text, font, width) -> list[str]:
  """The words of a heading, as many a line as fit."""
  lines = ['']
  for word in text.replace('_', ' ').split():
    longer = f'{lines[-1]} {word}'.strip()
    if lines[-1] and font.getlength(longer) > width:
      lines.append(word)
    else:
      lines[-1] = longer
  return lines
