"""Augmentation: images whose pixels say where they come from, and texts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.data.preprocess import (
  ImagePreprocess,
  LabelledImages,
  TextPreprocess,
)
from lit_jax.data.texts.characters import PADDING, UNKNOWN
from lit_jax.errors import UserError

SIZE, PAD, COUNT = 8, 4, 200
KEY = jax.random.key(5)


def preprocess(crop, flip):
  return ImagePreprocess((0.5,) * 3, (0.25,) * 3, crop, flip)


@pytest.fixture(scope='module')
def images():
  """Row, column and example, each counted from 1: 0 is padding alone."""
  n, row, column = np.indices((COUNT, SIZE, SIZE), np.uint8)
  return np.stack([row, column, n], -1) + np.uint8(1)


@pytest.fixture(scope='module')
def augmented(images):
  return {
    (crop, flip): np.asarray(preprocess(crop, flip).augment(images, KEY))
    for crop in (True, False)
    for flip in (True, False)
  }


def corner(image):
  """Which of the 81 windows it is, from where its first pixel came from."""
  row, column = np.argwhere(image[..., 2])[0]
  source_row, source_column = image[row, column, :2].astype(int) - 1
  return int(PAD + source_row - row), int(PAD + source_column - column)


def window(image, row, column):
  padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
  return padded[row : row + SIZE, column : column + SIZE]


def test_crops_are_windows_of_the_padded_image(images, augmented):
  found = augmented[True, False]
  assert found.dtype == np.uint8
  corners = [corner(image) for image in found]
  for before, after, (row, column) in zip(images, found, corners, strict=True):
    np.testing.assert_array_equal(after, window(before, row, column))
  # 200 draws from 9 x 9: each of the nine shifts is missed with (8/9)**200.
  assert {row for row, _ in corners} == set(range(9))
  assert {column for _, column in corners} == set(range(9))
  # Rows and columns are drawn apart: about 74 of the 81 windows are seen.
  assert len(set(corners)) > 55


def test_flips_mirror_left_and_right(images, augmented):
  found = augmented[False, True]
  mirrored = (found == images[:, :, ::-1]).all((1, 2, 3))
  as_they_were = (found == images).all((1, 2, 3))
  assert (mirrored ^ as_they_were).all()
  # Half of 200, give or take four deviations of 7.
  assert 72 <= mirrored.sum() <= 128


def test_both_draw_the_same_as_each_alone(images, augmented):
  cropped, both = augmented[True, False], augmented[True, True]
  flipped = augmented[False, True]
  mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
  np.testing.assert_array_equal(
    both,
    np.where(mirrored[:, None, None, None], cropped[:, :, ::-1], cropped),
  )


def test_examples_keep_their_places(augmented):
  # A window has at least 4 x 4 pixels of its image.
  for found in augmented.values():
    np.testing.assert_array_equal(
      found[..., 2].max((1, 2)), np.arange(1, COUNT + 1)
    )


def test_off_is_identity(images, augmented):
  np.testing.assert_array_equal(augmented[False, False], images)


def test_the_key_decides(images, augmented):
  again = preprocess(True, True).augment(images, KEY)
  np.testing.assert_array_equal(again, augmented[True, True])
  other = preprocess(True, True).augment(images, jax.random.key(6))
  assert (np.asarray(other) != augmented[True, True]).any()


@pytest.mark.parametrize('parts', [2, 5])
def test_parts_of_a_batch_equal_the_whole(images, augmented, parts):
  # As many devices draw: each for its own part of the batch.
  size = COUNT // parts
  found = [
    preprocess(True, True).augment(images[i : i + size], KEY, i, COUNT)
    for i in range(0, COUNT, size)
  ]
  np.testing.assert_array_equal(np.concatenate(found), augmented[True, True])


def test_normalize_by_hand():
  p = ImagePreprocess((0.5, 0.0, 0.2), (0.25, 0.5, 0.1))
  pixels = np.array([[0, 0, 0], [255, 255, 51]], np.uint8).reshape(1, 2, 1, 3)
  # (0 - 0.5) / 0.25 = -2, 0, (0 - 0.2) / 0.1 = -2; (1 - 0.5) / 0.25 = 2,
  # 1 / 0.5 = 2, and 51 is 0.2 of 255: 0.
  wanted = jnp.array([[-2.0, 0, -2], [2, 2, 0]]).reshape(1, 2, 1, 3)
  found = p.normalize(jnp.asarray(pixels))
  assert found.dtype == jnp.float32
  chex.assert_trees_all_close(found, wanted, atol=1e-6)


def test_normalize_of_one_channel():
  p = ImagePreprocess((0.2,), (0.5,))
  found = p.normalize(jnp.full((2, 4, 4, 1), 102, jnp.uint8))
  # 102 is 0.4 of 255: (0.4 - 0.2) / 0.5.
  chex.assert_trees_all_close(found, jnp.full((2, 4, 4, 1), 0.4), rtol=1e-5)


# Labelled images.


@pytest.fixture(scope='module')
def labelled(images):
  labels = np.arange(COUNT * 5).reshape(COUNT, 5) % 3 == 0
  return {'image': images, 'label': labels.astype(np.uint8)}


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_labelled_images_are_normalized(dtype):
  every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
  label = np.array([[1, 0]], dtype)
  found = LabelledImages().normalize(
    jax.tree.map(jnp.asarray, {'image': every, 'label': label})
  )
  assert found['image'].dtype == found['label'].dtype == jnp.float32
  pixels = np.asarray(found['image'])
  wanted = every.astype(np.float64) / 127.5 - 1
  np.testing.assert_allclose(pixels, wanted, atol=1e-7)
  assert pixels.min() == -1 and pixels.max() == 1
  np.testing.assert_array_equal(found['label'], [[1.0, 0.0]])


def test_labelled_images_are_mirrored_and_their_labels_stay(labelled):
  found = LabelledImages().augment(labelled, KEY)
  assert set(found) == {'image', 'label'}
  np.testing.assert_array_equal(found['label'], labelled['label'])
  images, after = labelled['image'], np.asarray(found['image'])
  mirrored = (after == images[:, :, ::-1]).all((1, 2, 3))
  assert (mirrored ^ (after == images).all((1, 2, 3))).all()
  # Half of 200, give or take four deviations of 7.
  assert 72 <= mirrored.sum() <= 128
  other = LabelledImages().augment(labelled, jax.random.key(6))
  assert (np.asarray(other['image']) != after).any()
  still = LabelledImages(flip=False).augment(labelled, KEY)
  np.testing.assert_array_equal(still['image'], images)


def test_parts_of_labelled_images_equal_the_whole(labelled):
  whole, half = LabelledImages().augment(labelled, KEY), COUNT // 2
  parts = [
    LabelledImages().augment(
      jax.tree.map(lambda leaf, i=i: leaf[i : i + half], labelled),
      KEY,
      i,
      COUNT,
    )
    for i in (0, half)
  ]
  together = np.concatenate([part['image'] for part in parts])
  np.testing.assert_array_equal(together, whole['image'])


def test_other_inputs_are_no_labelled_images():
  def shaped(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)

  image, label = shaped(np.uint8, 2, 8, 8, 3), shaped(np.uint8, 2, 5)
  normalize = LabelledImages().normalize
  for inputs in (
    image,
    {'image': image},
    {'image': image, 'label': label, 'more': label},
    {'image': image, 'label': shaped(np.int32, 2, 5)},
    {'image': image, 'label': shaped(np.uint8, 2)},
    {'image': shaped(np.uint8, 8, 8, 3), 'label': label},
  ):
    with pytest.raises(UserError, match="labelled images are {'image'"):
      jax.eval_shape(normalize, inputs)
  for other in (shaped(np.float32, 2, 8, 8, 3), shaped(np.uint8, 2, 8, 8, 1)):
    with pytest.raises(UserError, match='uint8 of 0 to 255, of 3 channels'):
      jax.eval_shape(normalize, {'image': other, 'label': label})


def test_facts_of_labelled_images():
  plain = LabelledImages(flip=False)
  facts = plain.facts()
  assert facts == {'kind': 'labelled images', 'range': [-1.0, 1.0]}
  assert plain.fed_by(facts) == plain
  with pytest.raises(UserError, match='range'):
    plain.fed_by(facts | {'range': [0, 1]})
  with pytest.raises(UserError, match='it reads images, and the data are'):
    plain.fed_by(preprocess(False, False).facts())
  hash(plain)  # as a static argument is


# Texts.


@pytest.fixture(scope='module')
def ids():
  """200 texts of 100 characters, each with 1 to 9 places of padding."""
  rng = np.random.default_rng(0)
  found = rng.integers(1, UNKNOWN, (COUNT, 100), np.uint8)
  for i, row in enumerate(found):
    row[100 - i % 9 - 1 :] = PADDING
  return found


def test_noise_hides_that_part_of_the_characters_alone(ids):
  found = np.asarray(TextPreprocess(0.2).augment(ids, KEY))
  assert found.dtype == np.uint8
  hidden = found == UNKNOWN
  np.testing.assert_array_equal(found[~hidden], ids[~hidden])
  assert not hidden[ids == PADDING].any()
  # 19,000 draws: a standard deviation of .003.
  assert hidden[ids != PADDING].mean() == pytest.approx(0.2, abs=0.012)


def test_the_key_decides_what_noise_hides(ids):
  noise = TextPreprocess(0.2)
  found = noise.augment(ids, KEY)
  np.testing.assert_array_equal(found, noise.augment(ids, KEY))
  assert (found != noise.augment(ids, jax.random.key(6))).any()
  np.testing.assert_array_equal(TextPreprocess().augment(ids, KEY), ids)
  np.testing.assert_array_equal(noise.normalize(ids), ids)


def test_noise_of_parts_of_a_batch_equals_that_of_the_whole(ids):
  noise, half = TextPreprocess(0.2), COUNT // 2
  parts = [noise.augment(ids[i : i + half], KEY, i, COUNT) for i in (0, half)]
  np.testing.assert_array_equal(np.concatenate(parts), noise.augment(ids, KEY))
