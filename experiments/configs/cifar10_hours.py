"""ResNet-56 → ResNet-20 on 20,000 images of CIFAR-10: hours, not days.

  python -m experiments.cifar --config=experiments/configs/cifar10_hours.py \
      --workdir=runs/cifar10_hours --config.data_dir=DIR

The recipe is ours: short cosine schedules, batch 64. Of the 50,000 training
images 5,000 are held out, to choose settings on, and 20,000 of the others are
used, by the teacher as by the students. Every student trains for 5 epochs,
LIT's for 3 by blocks and 2 as a whole. Cost on one CPU core: hours for the
teacher and 6 to 18 minutes a student.
"""

from ml_collections import ConfigDict

from experiments.configs import fashion_mnist, resnet


def get_config() -> ConfigDict:
  """The recipe for small images, with a deeper pair and fewer images."""
  config = fashion_mnist.get_config()
  config.dataset = 'cifar10'
  config.validation = 5000
  config.train_examples = 20_000
  config.teacher.depth = 56
  config.student.depth = 20
  config.method = 'scratch,kd,lit'
  for name in ('scratch', 'kd'):
    config[name].epochs = 5
  for name in resnet.COMPARE_IRS:
    config[name].epochs = 3
  for name in ('finetune', 'prune'):
    config[name].epochs = 2
  return config
