"""The teacher that comes with the package."""

from lit_jax import models
from lit_jax.data.images import sources
from lit_jax.networks import saved
from lit_jax.tasks import Classify


def test_embedded_teacher_knows_images_it_was_not_trained_on():
  data = sources.load('fashion_mnist_mini')
  facts, variables = saved.load(saved.embedded(data.name))
  evaluate = Classify(10).evaluator(
    models.build(facts.spec), data.preprocess, data.splits['test']
  )
  # 93.5 % of all 10,000 test images; these 1,000 are a sample of them, whose
  # accuracy has a standard error of 0.8 points.
  assert facts.row['accuracy'] == 0.935
  assert 0.91 < evaluate({'student': variables}).numbers['accuracy'] < 0.96
