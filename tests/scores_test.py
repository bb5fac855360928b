"""Tests of the scores of generated images, against closed forms."""

import numpy as np
import pytest
from scipy import linalg

from lit_jax.scores import fid, inception_score, kid, pixels


def _rng():
  return np.random.default_rng(0)


def _covariance(d, seed=0):
  """Symmetric, positive, with eigenvalues of about 0.01 to 4."""
  root = np.random.default_rng(seed).normal(size=(d, d))
  return root @ root.T / d


# FID.


def test_moments_are_those_of_numpy():
  x = _rng().normal(size=(50, 7)) + 3
  found = fid.moments(x)
  assert found.count == 50
  np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
  np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-12)
  assert found.mean.dtype == found.scatter.dtype == np.float64


@pytest.mark.parametrize('cuts', [(1,), (10, 40), (1, 2, 49), range(1, 50)])
def test_moments_of_parts_make_those_of_the_whole(cuts):
  # Far from 0, where differences of sums of squares would lose digits.
  x = _rng().normal(size=(50, 7)) + 1e6
  parts = [fid.moments(part) for part in np.split(x, list(cuts))]
  for order in (parts, parts[::-1]):
    found = fid.merge(*order)
    assert found.count == 50
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), atol=1e-8)


def test_float32_features_are_summed_in_float64():
  x = (1000 + _rng().uniform(size=(5000, 2))).astype(np.float32)
  found = fid.moments(x).covariance
  np.testing.assert_allclose(found, np.cov(x.T.astype(np.float64)), rtol=1e-12)


def test_distance_of_diagonal_gaussians():
  # Σ (μ - ν)² + (σ - τ)², by each dimension.
  mean, shifted = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 3.5])
  std, other = np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 0.0])
  found = fid.frechet(mean, np.diag(std**2), shifted, np.diag(other**2))
  assert found == pytest.approx(4 + 0.25 + 4 + 0 + 0.25, rel=1e-12)


def test_distance_of_covariances_that_commute():
  # Of common eigenvectors: the sum of (√a - √b)² over the eigenvalues.
  d = 12
  turn, _ = np.linalg.qr(_rng().normal(size=(d, d)))
  a, b = _rng().uniform(0.1, 4, (2, d))
  zero = np.zeros(d)
  found = fid.frechet(zero, (turn * a) @ turn.T, zero, (turn * b) @ turn.T)
  wanted = np.square(np.sqrt(a) - np.sqrt(b)).sum()
  assert found == pytest.approx(wanted, rel=1e-10)


def test_distance_of_two_dimensions_that_do_not_commute():
  # Tr (ab)^½ = (Tr ab + 2 det(ab)^½)^½ of 2x2.
  a = np.array([[2.0, 0.5], [0.5, 1.0]])
  b = np.array([[1.0, -0.8], [-0.8, 3.0]])
  root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
  assert np.abs(a @ b - b @ a).max() > 0.1
  wanted = 25 + np.trace(a) + np.trace(b) - 2 * root
  found = fid.frechet(np.array([3.0, 0]), a, np.array([0, 4.0]), b)
  assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize('d', [1, 2, 5, 30])
def test_distance_by_the_matrix_root_of_scipy(d):
  a, b = _covariance(d, 1), _covariance(d, 2)
  mean, other = _rng().normal(size=(2, d))
  root = linalg.sqrtm(a @ b)
  wanted = np.square(mean - other).sum() + np.trace(a + b - 2 * root.real)
  found = fid.frechet(mean, a, other, b)
  assert found == pytest.approx(wanted, rel=1e-9)
  assert fid.frechet(other, b, mean, a) == pytest.approx(found, rel=1e-12)


def test_a_set_has_no_distance_to_itself():
  for n, d in ((100, 8), (5, 40), (2, 40)):
    x = fid.moments(_rng().normal(size=(n, d)) + 2)
    assert 0 <= fid.fid(x, x) < 1e-11 * d


def test_shifts_and_scales_of_few_images():
  # Of three images in 50 dimensions, whose covariance has rank 2.
  x = _rng().normal(size=(3, 50))
  some = fid.moments(x)
  moved = fid.fid(some, fid.moments(x + 2))
  assert moved == pytest.approx(50 * 4, rel=1e-12)
  # Σ and s² Σ, and means μ and s μ.
  scaled = fid.fid(some, fid.moments(1.5 * x))
  wanted = 0.25 * (np.square(some.mean).sum() + np.trace(some.covariance))
  assert scaled == pytest.approx(wanted, rel=1e-10)
  # No direction in common: the roots' trace is 0.
  left = np.pad(_rng().normal(size=(4, 10)), ((0, 0), (0, 10)))
  left, right = fid.moments(left), fid.moments(left[:, ::-1])
  wanted = np.square(left.mean - right.mean).sum()
  wanted += np.trace(left.covariance + right.covariance)
  assert fid.fid(left, right) == pytest.approx(wanted, rel=1e-12)


def test_images_that_are_all_the_same():
  # Generators collapse; a covariance of zeros is one.
  same = fid.moments(np.ones((10, 4)))
  other = fid.moments(_rng().normal(size=(30, 4)))
  wanted = np.square(1 - other.mean).sum() + np.trace(other.covariance)
  assert fid.fid(same, other) == pytest.approx(wanted, rel=1e-12)
  assert fid.fid(same, same) == 0


def test_what_has_no_distance():
  with pytest.raises(ValueError, match='covariance of 1 features; at least 2'):
    fid.fid(fid.moments(np.ones((1, 3))), fid.moments(np.ones((2, 3))))
  for wrong in (np.ones(3), np.ones((0, 3)), np.ones((2, 3, 1))):
    with pytest.raises(ValueError, match=r'not \[n, d\]'):
      fid.moments(wrong)
  for number in (np.nan, np.inf):
    with pytest.raises(ValueError, match='not finite'):
      fid.moments(np.array([[1.0, 2.0], [3.0, number]]))
  two, three = fid.moments(np.ones((2, 2))), fid.moments(np.ones((2, 3)))
  with pytest.raises(ValueError, match='features of 3 numbers among'):
    fid.merge(two, three)
  with pytest.raises(ValueError, match=r'of the shapes \[\(2,\)'):
    fid.fid(two, three)


def test_few_images_are_told_of():
  words = (
    'FID of 1,000 images in 2,048 dimensions: their covariance is singular'
  )
  assert fid.warning(1000).startswith(words)
  # n images have a covariance of rank n - 1.
  assert fid.warning(2048) and not fid.warning(2049)
  assert not fid.warning(6, 5)


# KID.


def _by_hand(a, b):
  """The estimate by loops over pairs."""

  def k(x, y):
    return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

  n, m = len(a), len(b)
  within_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j)
  within_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j)
  across = sum(k(x, y) for x in a for y in b)
  return (
    within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)
  )


def test_discrepancy_by_hand():
  a = _rng().normal(size=(5, 3))
  b = _rng().normal(size=(4, 3)) + 1
  assert kid.squared_mmd(a, b) == pytest.approx(_by_hand(a, b), rel=1e-12)
  assert kid.squared_mmd(b, a) == pytest.approx(_by_hand(a, b), rel=1e-12)
  # Every subset is the whole set.
  found = kid.kid(a[:4], b, subsets=3)
  assert found.mean == pytest.approx(_by_hand(a[:4], b), rel=1e-12)
  assert found.std < 1e-12 and found.size == 4


def test_discrepancy_of_points():
  # k(1, 1) = 8, k(0, ·) = 1: 8 + 1 - 2.
  found = kid.squared_mmd(np.ones((3, 1)), np.zeros((2, 1)))
  assert found == pytest.approx(7, rel=1e-12)


def test_estimates_have_no_bias():
  # Two samples of one distribution: 0 on average. With the diagonal, k(x, x) of
  # about 8, each of the two parts would be some 8 / 20 too large.
  rng = _rng()
  found = [kid.squared_mmd(*rng.normal(size=(2, 20, 4))) for _ in range(400)]
  error = np.std(found) / np.sqrt(len(found))
  assert abs(np.mean(found)) < 3 * error
  assert error < 0.03
  assert min(found) < 0


def test_subsets_are_drawn_by_the_seed():
  a, b = _rng().normal(size=(2, 60, 4))
  b = b + 0.5
  options = dict(subsets=20, size=30)
  found = kid.kid(a, b, **options)
  assert found == kid.kid(a.astype(np.float64), b, seed=0, **options)
  assert found != kid.kid(a, b, seed=1, **options)
  assert found.size == 30 and found.std > 0
  # Around the estimate of the whole sets.
  assert abs(found.mean - kid.squared_mmd(a, b)) < found.std


def test_subsets_are_of_at_most_the_smaller_set():
  a = _rng().normal(size=(9, 2))
  assert kid.kid(a, a[:5], subsets=2).size == 5
  assert kid.kid(a, a, subsets=2, size=4).size == 4
  for x, y, options in (
    (a, a[:1], {}), (a, a, {'subsets': 0}), (a, a, {'size': 1}),
  ):  # fmt: skip
    with pytest.raises(ValueError, match='at least 1 of 2 is needed'):
      kid.kid(x, y, **options)
  with pytest.raises(ValueError, match=r'shapes \(9, 2\) and \(9, 1\)'):
    kid.kid(a, a[:, :1])


# The inception score.


def test_sure_and_varied_images_score_the_number_of_classes():
  sure = np.eye(7).repeat(10, 0)
  found = inception_score.inception_score(sure, splits=1)
  assert found.mean == pytest.approx(7, rel=1e-12)
  assert found.std == 0


def test_images_that_are_all_alike_score_1():
  p = np.array([[0.5, 0.25, 0.25, 0]]).repeat(50, 0)
  found = inception_score.inception_score(p)
  assert found.mean == pytest.approx(1, rel=1e-12)
  assert found.std < 1e-12


def test_score_by_hand():
  p = np.array([[0.9, 0.1], [0.4, 0.6]])
  marginal = np.array([0.65, 0.35])
  wanted = np.exp(np.mean([sum(row * np.log(row / marginal)) for row in p]))
  found = inception_score.inception_score(p.astype(np.float32), splits=1)
  assert found.mean == pytest.approx(wanted, rel=1e-6)
  # Alone, each image is the mean of its part.
  assert inception_score.inception_score(p, splits=2) == pytest.approx((1, 0))


def test_parts_are_shuffled_by_the_seed():
  # In order, each part would be of one class and score 1.
  sure = np.eye(4).repeat(25, 0)
  found = inception_score.inception_score(sure, splits=4)
  assert 3.5 < found.mean < 4 and 0 < found.std < 0.3
  again = inception_score.inception_score(sure, splits=4, seed=0)
  assert again == found
  assert inception_score.inception_score(sure, splits=4, seed=1) != found


def test_what_are_no_probabilities():
  p = np.full((20, 4), 0.25)
  for wrong in (p * 2, p - 0.25, np.eye(4)[[0] * 20] * 2 - 0.25, p * np.nan):
    with pytest.raises(ValueError, match='rows that are no probabilities'):
      inception_score.inception_score(wrong)
  for wrong in (p[:5], p[0], p[:0]):
    with pytest.raises(ValueError, match='in 10 parts'):
      inception_score.inception_score(wrong)


# Pixels.


def test_differences_of_each_image():
  images = np.zeros((3, 2, 2, 3), np.uint8)
  others = images.copy()
  others[1] = 255
  others[2, 0, 0, 0] = 51
  found = pixels.l1(images, others)
  np.testing.assert_allclose(found, [0, 1, 0.2 / 12], rtol=1e-12)
  # Unsigned differences would wrap around.
  assert np.array_equal(pixels.l1(others, images), found)
  decibels = pixels.psnr(images, others)
  assert decibels[0] == np.inf
  wanted = [0, 10 * np.log10(12 / 0.04)]
  np.testing.assert_allclose(decibels[1:], wanted, atol=1e-12)


def test_floats_are_from_0_to_1():
  images, others = _rng().integers(0, 256, (2, 4, 5, 6, 3), np.uint8)
  as_floats = (others / 255).astype(np.float32)
  for score in (pixels.l1, pixels.psnr):
    wanted = score(images, others)
    np.testing.assert_allclose(score(images, as_floats), wanted, rtol=1e-6)
    assert wanted.shape == (4,) and wanted.dtype == np.float64


def test_equal_images_count_for_the_cap():
  decibels = np.array([20.0, np.inf, 30.0, np.inf])
  assert pixels.mean_psnr(decibels) == (20 + 30 + 2 * pixels.CAP) / 4
  assert pixels.mean_psnr(decibels, cap=25) == (20 + 3 * 25) / 4


def test_the_cap_is_above_what_different_images_have():
  # One value of 128x128x3 that is off by 1.
  images = np.zeros((1, 128, 128, 3), np.uint8)
  others = images.copy()
  others[0, 5, 6, 1] = 1
  found = pixels.psnr(images, others)[0]
  assert found == pytest.approx(95.05, abs=0.01)
  size = 154_000
  nearest = 20 * np.log10(255) + 10 * np.log10(size)
  assert found < nearest < pixels.CAP + 0.01


def test_images_that_cannot_be_compared():
  images = np.zeros((2, 4, 4, 3), np.uint8)
  with pytest.raises(ValueError, match='give two equal ones'):
    pixels.l1(images, images[:1])
  with pytest.raises(ValueError, match='images of int64, not uint8'):
    pixels.psnr(images, images.astype(np.int64))
