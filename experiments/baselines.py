"""Systems from outside, as rows to compare a run's networks with."""

import time
from collections.abc import Callable

import numpy as np

from lit_jax.data.dataset import Dataset
from lit_jax.data.texts.characters import decode
from lit_jax.errors import UserError, choose, require
from lit_jax.report import Row
from lit_jax.tasks.classify import of_confusion

# For 3 million texts, of which all words and pairs would fill the memory.
_FEATURES = 1_000_000


def tfidf(dataset: Dataset) -> Row:
  """TF-IDF of words and pairs of words, and logistic regression.

  scikit-learn's, with sublinear counts, the million most frequent words and
  pairs, C = 10, and otherwise its own settings. It reads the same characters of
  the same splits as the networks.

  Args:
    dataset: of texts.

  Returns:
    Its row, whose parameters are the regression's coefficients.

  Raises:
    UserError: all texts have one label.
  """
  # Here, since only this row needs the package, which takes a second to load.
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline

  train, test = dataset.splits['train'], dataset.splits[dataset.scored]
  if len(np.unique(train.labels)) < 2:
    raise UserError('all training texts have one label')
  start = time.monotonic()
  words = TfidfVectorizer(
    ngram_range=(1, 2), sublinear_tf=True, max_features=_FEATURES
  )
  regression = LogisticRegression(C=10.0, max_iter=1000)
  model = make_pipeline(words, regression)
  model.fit(decode(train.inputs), train.labels)
  seconds = time.monotonic() - start
  found = model.predict(decode(test.inputs))
  confusion = np.zeros((dataset.classes, dataset.classes), np.int64)
  np.add.at(confusion, (test.labels, found), 1)
  return Row(
    method='tfidf',
    model='logistic regression',
    depth=None,
    parameters=np.size(regression.coef_) + np.size(regression.intercept_),
    macs=None,
    epochs=None,
    train_seconds=round(seconds, 3),
    latency_ms={},
    scores=of_confusion(float('nan'), confusion).scores,
  )


def find(name: str) -> Callable[[Dataset], Row]:
  """The baseline of that name, whose packages are there.

  Raises:
    UserError: no such baseline, or a package is missing.
  """
  choose('baseline', name, BASELINES)
  require(f'baseline {name}', 'text', *_PACKAGES[name])
  return BASELINES[name]


BASELINES = {'tfidf': tfidf}
_PACKAGES = {'tfidf': ('sklearn',)}
