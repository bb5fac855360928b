"""The text demo: VDCNN-17 → VDCNN-9 on 4,000 reviews, three ways.

  python -m experiments.amazon --config=experiments/configs/demo_text.py \
      --workdir=runs/demo-text

A teacher and three students learn from the 3,993 training reviews of
`fine_foods` whether a review gives the highest score: the teacher and scratch
from the labels alone, KD from the teacher's logits too, LIT from its
intermediate representations as well. The students train for 20 epochs each. The
networks are four times as narrow as published, read 256 characters, and a tenth
of a training text's characters is hidden; the teacher has shortcuts, without
which 17 layers learn little from so few texts. Settings were chosen on 500 of
the training reviews, held out (docs/results.md). TF-IDF with logistic
regression, which needs far fewer texts, is the row beside. Cost: four minutes
on two CPU cores; docs/results.md has the table that came out.
"""

from ml_collections import ConfigDict

from experiments.configs import vdcnn


def get_config() -> ConfigDict:
  """VDCNN's recipe with small networks and short schedules."""
  config = vdcnn.get_config()
  config.dataset = 'fine_foods'
  config.data.length = 256
  config.method = 'scratch,kd,lit'
  config.baseline = 'tfidf'
  config.batch_size = 64
  config.noise = 0.1
  small = dict(widths=(16, 32, 64, 128), k=4, hidden=256)
  config.teacher.update(dict(small, depth=17, shortcut=True))
  config.student.update(dict(small, depth=9))
  epochs = dict(train_teacher=24, scratch=20, kd=20, lit=6, finetune=14)
  for name, count in epochs.items():
    config[name].update(
      dict(epochs=count, learning_rate=0.01, schedule='cosine')
    )
  config.prune.update(dict(epochs=4, learning_rate=1e-3, schedule='cosine'))
  for name in ('kd', 'lit', 'finetune'):
    config[name].alpha = 0.5
  return config
