"""ResNeXt-110 → ResNeXt-20 (32x4d) by LIT on CIFAR-10, the paper's recipes.

  python -m experiments.cifar --config=experiments/configs/resnext.py \
      --workdir=runs/resnext --config.data_dir=DIR

Expected accuracy of the student, as published: KD 94.42 %, LIT 94.72 % (mean
of three runs). Cost: an image costs the teacher 4.0 G multiply-accumulates
forward and the student 0.77 G; a GPU is needed, and its times are not measured
yet. For students of cardinality 16 the paper takes beta 0.25:

  --config.student.cardinality=16 --config.lit.beta=0.25
"""

from ml_collections import ConfigDict

from experiments.configs import resnet


def get_config() -> ConfigDict:
  """ResNet's recipe with ResNeXt's networks and schedules."""
  config = resnet.get_config()
  options = dict(
    family='resnext',
    units=(),
    shortcut='conv',
    cardinality=32,
    base_width=4,
    unit='bottleneck',  # or 'basic'
  )
  config.teacher = ConfigDict(dict(options, depth=110, checkpoint=''))
  config.student = ConfigDict(dict(options, depth=20, checkpoint=''))

  scratch = dict(epochs=300, milestones=(150, 225))
  for name in ('train_teacher', 'scratch'):
    config[name].update(scratch)
  config.kd.update(dict(epochs=300, milestones=(100, 175, 225)))
  for name in resnet.COMPARE_IRS:
    config[name].update(dict(epochs=200, milestones=(100, 145, 175), beta=0.5))
  config.hint.beta = 0.0
  for name in ('finetune', 'prune'):
    config[name].update(dict(epochs=125, milestones=(65, 95, 110)))
  return config
