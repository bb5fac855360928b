"""Image files as squares of pixels."""

import os
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lit_jax.errors import printable, reason

# No others are tried, whatever a file is called: Pillow would run Ghostscript.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
_MOST_PIXELS = 89_478_485  # above it Pillow warns


class Unusable(Exception):
  """An image that cannot be used.

  Attributes:
    kind: one word or two, under which such images are counted.
  """

  def __init__(self, kind: str, message: str):
    """`message` says what is wrong and where, in one line."""
    super().__init__(printable(message))
    self.kind = kind


class File(NamedTuple):
  """A file as a folder lists it."""

  name: str
  size: int
  changed: int  # nanoseconds


def files(folder: str) -> list[File]:
  """The image files of a folder, sorted by name; others are passed over.

  Raises:
    OSError: the folder cannot be read.
  """
  found = []
  with os.scandir(folder) as entries:
    for entry in entries:
      hidden = entry.name.startswith('.')
      if not hidden and entry.name.lower().endswith(SUFFIXES):
        facts = entry.stat()
        found.append(File(entry.name, facts.st_size, facts.st_mtime_ns))
  return sorted(found)


def read(path: str, size: int, crop: int = 0) -> np.ndarray:
  """An image file as a square, see `square`; upright, as EXIF says.

  Raises:
    Unusable: there is no such file, it is broken, too large, of too many bits
      or smaller than the crop.
  """
  if os.path.exists(path) and not os.path.isfile(path):
    # A pipe would be waited for, and a device read without an end.
    words = 'is no image that can be read (a directory or a pipe)'
    raise Unusable('broken', f'{path}: {words}')
  try:
    with Image.open(path, formats=_FORMATS) as image:
      width, height = image.size
      # A small file can hold a large image; of one twice as large Pillow
      # itself refuses to read more than the size.
      if width * height > _MOST_PIXELS:
        raise Unusable(
          'too large',
          f'{path}: is {width}x{height}, of more than {_MOST_PIXELS} pixels',
        )
      image.load()
      return square(ImageOps.exif_transpose(image), size, crop, path)
  except Unusable:
    raise
  except FileNotFoundError as e:
    raise Unusable('missing', f'{path}: is missing') from e
  # Pillow raises errors of every kind, as each format's reader does.
  except Exception as e:
    words = 'is no image that can be read'
    raise Unusable('broken', f'{path}: {words} ({reason(e)})') from e


def square(
  image: Image.Image, size: int, crop: int = 0, where: str = ''
) -> np.ndarray:
  """The middle of an image, resized.

  Args:
    image: of any mode; what is transparent is laid on white.
    size: height and width of the result.
    crop: height and width of the part that is cut from the middle; 0 for the
      greatest square.
    where: the image's name, for the message.

  Returns:
    uint8 [size, size, 3], by Pillow's bilinear filter: a smaller image is a
    weighted mean of all pixels (antialiased).

  Raises:
    Unusable: the image is smaller than the crop, or of too many bits.
  """
  if image.mode.startswith(('I', 'F')):
    # Pillow would cut off all numbers at 255.
    raise Unusable(
      'of other bits',
      f'{where}: its pixels are of mode {image.mode}, which have more than 8 '
      'bits a channel',
    )
  width, height = image.size
  side = crop or min(width, height)
  if side > min(width, height):
    raise Unusable(
      'too small',
      f'{where}: is {width}x{height}, smaller than the crop of {crop}x{crop}',
    )
  left, top = (width - side) // 2, (height - side) // 2
  # First cut, for what follows then has fewer pixels to do.
  image = _on_white(image.crop((left, top, left + side, top + side)))
  return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _on_white(image: Image.Image) -> Image.Image:
  if not image.has_transparency_data:
    return image.convert('RGB')
  drawing = image.convert('RGBA')
  ground = Image.new('RGBA', drawing.size, 'white')
  ground.alpha_composite(drawing)
  return ground.convert('RGB')
