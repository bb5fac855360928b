"""What scores translations: a classifier that was trained here, or InceptionV3.

A judge sees real images, the translations, and what was asked for, all uint8.
Without InceptionV3's own weights nothing here is called FID.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from lit_jax.blocks import infer
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError, choose, names
from lit_jax.networks import inception
from lit_jax.report import Column
from lit_jax.scores import fid, kid, pixels
from lit_jax.scores.inception_score import inception_score
from lit_jax.training import evaluation
from lit_jax.training.evaluation import Reader
from lit_jax.training.task import Selection

# Mapped images that are read at once.
_PIECE = 256


class Translations(NamedTuple):
  """What is judged.

  Attributes:
    images: the real ones, uint8 [N, h, w, 3].
    label: their attributes, [N, c] of 0 and 1.
    fake: the translations, uint8 [N, T, h, w, 3].
    asked: the label of each, [N, T, c].
    truths: which of the real images each should be, [N, T], −1 where there is
      none; None where it is not known.
  """

  images: Any
  label: np.ndarray
  fake: np.ndarray
  asked: np.ndarray
  truths: np.ndarray | None

  @property
  def known(self) -> np.ndarray:
    """Of which translations the true image is known: [N, T]."""
    if self.truths is None:
      return np.zeros(self.fake.shape[:2], bool)
    return self.truths >= 0


class _Kept:
  """What was made of the real images, which are the same after every epoch."""

  def __init__(self):
    self._found: dict[int, tuple[Any, Any]] = {}

  def __call__(self, images: Any, make: Callable[[Any], Any]) -> Any:
    if id(images) not in self._found:
      # With the images, so that no other array takes their place in memory.
      self._found[id(images)] = images, make(images)
    return self._found[id(images)][1]


class Judge(Protocol):
  """One kind of scores; hashable.

  Attributes:
    is_trained: whether a network has to be trained for it.
    columns: of its scores.
    selects: the score that tells best.
  """

  is_trained: bool

  @property
  def columns(self) -> tuple[Column, ...]: ...

  @property
  def selects(self) -> Selection: ...

  def trained(self, judge: Reader, row: Mapping[str, Any]) -> 'Judge':
    """The judge with its network; `row` is what is known of that."""
    ...

  def numbers(self, shown: Translations) -> dict[str, float]:
    """Its scores by name."""
    ...


@dataclasses.dataclass(frozen=True)
class AttributeJudge:
  """A classifier of attributes, trained on the same images; see `Judge`.

  Attributes:
    reader: the classifier; None before it is trained.
    exact: the part of the scored real images whose attributes it reads right.
  """

  reader: Reader | None = dataclasses.field(default=None, compare=False)
  exact: float = 0.0
  _real: _Kept = dataclasses.field(default_factory=_Kept, compare=False)

  is_trained = True
  selects = Selection('attribute_accuracy')

  @property
  def columns(self) -> tuple[Column, ...]:
    return (
      Column(
        'attribute_accuracy', 'Attributes %', 'percent', narrow='Attr.\n%',
        label='attribute accuracy',
        note='Attributes: of the translations that ask for a change, the part '
        'of which a classifier reads exactly what was asked for; it was '
        'trained for this run, and reads '
        f'{100 * self.exact:.1f} % of the scored real images right.',
      ),
      Column(
        'attribute_distance', 'Attr. distance', 'number',
        narrow='distance', below=True,
        note='Attr. distance: the Fréchet distance of that classifier’s '
        'features, of translations to real images; it is no FID.',
      ),
    )  # fmt: skip

  def trained(self, judge: Reader, row: Mapping[str, Any]) -> 'AttributeJudge':
    return AttributeJudge(judge, row['exact'])

  def numbers(self, shown: Translations) -> dict[str, float]:
    logits, fake = self._read(shown.fake.reshape(-1, *shown.fake.shape[2:]))
    asked = shown.asked.reshape(len(logits), -1)
    changed = (shown.asked != shown.label[:, None]).any(-1).reshape(-1)
    exact = ((logits > 0) == (asked > 0)).all(-1)
    # Against the true images where they are known, which have the attributes
    # that were asked for; else against all.
    _, real = self._real(shown.images, self._read)
    if shown.truths is not None and shown.known.any():
      real, fake = (
        real[shown.truths[shown.known]],
        fake[shown.known.reshape(-1)],
      )
    return {
      'attribute_accuracy': float(exact[changed].mean()),
      'attribute_distance': fid.fid(fid.moments(real), fid.moments(fake)),
    }

  def _read(self, images) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features of images."""
    assert self.reader is not None
    parts = self._outputs(Split(images, None), self.reader.variables)
    logits, features = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(features)

  @functools.cached_property
  def _outputs(self):
    """Compiled once, not after every epoch."""
    reader = self.reader
    assert reader is not None

    def program(variables, images, labels):
      del labels
      x = reader.preprocess.normalize(images)
      logits, irs = infer(reader.net, variables, x)
      return logits, irs[-1].astype(jnp.float32).mean((1, 2))

    return evaluation.outputs(program)


def images_alone(dataset: Dataset) -> Dataset:
  """The same images with their attributes as labels."""
  half = (0.5, 0.5, 0.5)
  return dataclasses.replace(
    dataset,
    splits={
      name: Split(split.inputs['image'], split.inputs['label'])
      for name, split in dataset.splits.items()
    },
    preprocess=ImagePreprocess(half, half),
  )


def pixel_numbers(shown: Translations) -> dict[str, float]:
  """L1, in steps of uint8, and PSNR, of what has a true image to match."""
  if shown.truths is None or not shown.known.any():
    return {}
  true = shown.images[shown.truths[shown.known]]
  fake = shown.fake[shown.known]
  return {
    'l1': 255 * float(pixels.l1(fake, true).mean()),
    'psnr': pixels.mean_psnr(pixels.psnr(fake, true)),
  }


@dataclasses.dataclass(frozen=True)
class InceptionJudge:
  """FID, KID and Inception Score by InceptionV3's weights; see `Judge`.

  Attributes:
    digest: of the weights' file, SHA-256.
    variables: the weights.
    warning: what to say beside an FID of few images.
  """

  digest: str
  variables: Mapping[str, Any] = dataclasses.field(compare=False)
  warning: str = ''
  _real: _Kept = dataclasses.field(default_factory=_Kept, compare=False)

  is_trained = False
  selects = Selection('fid', largest=False)

  @property
  def columns(self) -> tuple[Column, ...]:
    return (
      Column(
        'fid', 'FID', 'number',
        note=f'FID, KID and IS by the weights {self.digest[:8]}… that were '
        f'given. {self.warning}'.strip(),
      ),
      Column('kid', 'KID', 'number', below=True),
      Column('inception_score', 'IS', 'number'),
    )  # fmt: skip

  def trained(self, judge: Reader, row: Mapping[str, Any]) -> 'InceptionJudge':
    del judge, row
    return self

  def numbers(self, shown: Translations) -> dict[str, float]:
    real = self._real(shown.images, self._features)
    fake, probabilities = inception.read(self.variables, iter(shown.fake))
    score = inception_score(probabilities)
    return {
      'fid': fid.fid(fid.moments(real), fid.moments(fake)),
      'kid': kid.kid(real, fake).mean,
      'inception_score': score.mean,
    }

  def _features(self, images) -> np.ndarray:
    return inception.read(self.variables, _pieces(images))[0]


def _pieces(images) -> Iterator[np.ndarray]:
  """Of mapped images a few at a time."""
  for start in range(0, len(images), _PIECE):
    yield images[np.arange(start, min(start + _PIECE, len(images)))]


JUDGES = ('attributes', 'inception')


def of(
  scores: str, weights: str, sha256: str, images: int
) -> tuple[Judge, ...]:
  """The judges of these names, in the order of JUDGES.

  Args:
    scores: names in JUDGES, separated by commas; '' is none.
    weights: InceptionV3's file, for 'inception' alone.
    sha256: of that file, '' where it is not known.
    images: how many real images there are to compare with.

  Raises:
    UserError: an unknown name, weights that are missing, given twice or not
      asked for, or a file that does not hold them.
  """
  wanted = [choose('score', n, JUDGES) for n in names(scores, 'scores')]
  asked = 'inception' in wanted
  if weights and not asked:
    raise UserError(
      f'inception names weights, and scores are {scores!r}; add inception to '
      'scores, or leave the weights out'
    )
  if asked and not weights:
    raise UserError(
      'scores name inception, whose weights do not come with lit_jax; set '
      f'inception to a file of them, such as {inception.PUBLISHED}'
    )
  if ',' in weights and not os.path.exists(weights):
    raise UserError(f'inception {weights!r} gives weights twice; give one file')
  found: list[Judge] = []
  if 'attributes' in wanted:
    found.append(AttributeJudge())
  if asked:
    path = os.path.expanduser(weights)
    variables = inception.load(path, sha256)
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    warning = fid.warning(images)
    if warning:
      print(warning, file=sys.stderr)
    found.append(InceptionJudge(digest, variables, warning))
  return tuple(found)
