"""The judges of translations: a classifier's scores, and InceptionV3's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lit_jax import blocks
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError
from lit_jax.networks import inception
from lit_jax.scores import fid, kid
from lit_jax.scores.inception_score import inception_score
from lit_jax.tasks import judging
from lit_jax.training.evaluation import Reader

SIZE = 4


class Colours(nn.Module):
  """As an IR the image itself."""

  @nn.compact
  def __call__(self, x, train=False):
    return x


class Bright(nn.Module):
  """An attribute for red and one for green: whether the mean is above 0."""

  @nn.compact
  def __call__(self, x, train=False):
    return x.mean((1, 2))[:, :2]


def _reader():
  shape = jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.float32)
  net = blocks.BlockNet(Colours(), (Colours(),), Bright(), shape)
  half = (0.5, 0.5, 0.5)
  return Reader(net, {'batch_stats': {}}, ImagePreprocess(half, half))


def _image(red, green, blue):
  return np.full((SIZE, SIZE, 3), (red, green, blue), np.uint8)


@pytest.fixture
def shown():
  """Four images, red and green each or not, and a translation of each."""
  images = np.stack(
    [
      _image(r, g, 10 * r + g)
      for r, g in ((9, 9), (9, 250), (250, 9), (250, 250))
    ]
  )
  label = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.uint8)
  # Red is to be turned round; the last asks for what there is.
  asked = label[:, None].copy()
  asked[:3, 0, 0] ^= 1
  fake = images[[2, 3, 1, 3]][:, None].copy()
  truths = np.array([[2], [3], [0], [3]])
  return judging.Translations(images, label, fake, asked, truths)


def test_attributes_are_read_off_what_asks_for_a_change(shown):
  judge = judging.AttributeJudge().trained(_reader(), {'exact': 0.5})
  found = judge.numbers(shown)
  # Of the three that ask for a change the third is green, not black.
  assert found['attribute_accuracy'] == pytest.approx(2 / 3)
  true = shown.images[shown.truths[:, 0]]
  features = [
    (images.astype(np.float64) / 127.5 - 1).mean((1, 2))
    for images in (true, shown.fake[:, 0])
  ]
  wanted = fid.fid(*map(fid.moments, features))
  assert wanted > 0.1
  assert found['attribute_distance'] == pytest.approx(wanted, rel=1e-4)
  notes = ' '.join(column.note for column in judge.columns)
  assert 'reads 50.0 % of the scored real images' in notes
  assert 'it is no FID' in notes


def test_without_true_images_all_real_ones_are_compared_with(shown):
  judge = judging.AttributeJudge().trained(_reader(), {'exact': 0.5})
  found = judge.numbers(shown._replace(truths=None))
  features = [
    (images.astype(np.float64) / 127.5 - 1).mean((1, 2))
    for images in (shown.images, shown.fake[:, 0])
  ]
  wanted = fid.fid(*map(fid.moments, features))
  assert found['attribute_distance'] == pytest.approx(wanted, rel=1e-4)


def test_pixels_are_compared_where_the_truth_is_known(shown):
  found = judging.pixel_numbers(shown)
  true = shown.images[shown.truths[:, 0]].astype(np.float64)
  off = np.abs(true - shown.fake[:, 0])
  assert found['l1'] == pytest.approx(off.mean())
  # Three are equal, and count for 100 decibels each.
  last = -10 * np.log10(np.square(off[2] / 255).mean())
  assert found['psnr'] == pytest.approx((3 * 100 + last) / 4)
  unknown = shown._replace(truths=np.array([[-1], [-1], [0], [-1]]))
  assert judging.pixel_numbers(unknown)['psnr'] == pytest.approx(last)
  assert judging.pixel_numbers(shown._replace(truths=None)) == {}


def _features(variables, images):
  """In place of InceptionV3's: those of each image, and probabilities."""
  assert variables == 'weights'
  pixels = np.concatenate([np.asarray(i, np.float64) for i in images])
  features = pixels.reshape(len(pixels), -1)[:, :3] / 255
  probabilities = np.exp(features)
  return features, probabilities / probabilities.sum(1, keepdims=True)


def test_inception_scores_are_those_of_its_features(shown, monkeypatch):
  calls = []

  def read(variables, images):
    calls.append(1)
    return _features(variables, images)

  monkeypatch.setattr(inception, 'read', read)
  judge = judging.InceptionJudge('0123456789', 'weights', 'few')
  # Ten splits need as many images.
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
  fake = rng.integers(0, 256, (12, 2, SIZE, SIZE, 3), np.uint8)
  many = shown._replace(images=images, fake=fake, truths=None)
  found = judge.numbers(many)
  real, _ = _features('weights', [images])
  made, probabilities = _features('weights', fake)
  assert found == {
    'fid': pytest.approx(fid.fid(fid.moments(real), fid.moments(made))),
    'kid': pytest.approx(kid.kid(real, made).mean),
    'inception_score': pytest.approx(inception_score(probabilities).mean),
  }
  # The real images are read once, however often translations are judged.
  assert judge.numbers(many) == found
  assert len(calls) == 3
  note = judge.columns[0].note
  assert '01234567' in note and 'few' in note


def test_weights_are_read_checked_and_few_images_said(
  tmp_path, monkeypatch, capsys
):
  path = tmp_path / 'weights.safetensors'
  path.write_bytes(b'weights')
  loaded = []
  monkeypatch.setattr(
    inception, 'load', lambda *given: loaded.append(given) or 'weights'
  )
  first, second = judging.of('inception,attributes', str(path), 'ab', 100)
  assert loaded == [(str(path), 'ab')]
  assert isinstance(first, judging.AttributeJudge) and first.is_trained
  assert isinstance(second, judging.InceptionJudge) and not second.is_trained
  assert second.selects.key == 'fid' and not second.selects.largest
  assert 'FID of 100 images' in capsys.readouterr().err
  judging.of('inception', str(path), '', 3000)
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  ('scores', 'weights', 'words'),
  [
    ('inception', '', 'do not come with lit_jax'),
    ('attributes', 'a.pth', 'add inception to scores'),
    ('inception', 'a.pth,b.pth', 'gives weights twice'),
    ('inception', 'none.safetensors', 'none.safetensors'),
    ('lpips', '', "score 'lpips'"),
    ('attributes,attributes', '', 'repeated'),
  ],
)
def test_scores_that_cannot_be(scores, weights, words):
  with pytest.raises(UserError, match=words):
    judging.of(scores, weights, '', 10)


def test_no_score_at_all():
  assert judging.of('', '', '', 10) == ()
