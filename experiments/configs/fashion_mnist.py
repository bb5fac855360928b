"""ResNet-20 → ResNet-8 by LIT on the whole of Fashion-MNIST, for two cores.

  python -m experiments.cifar --config=experiments/configs/fashion_mnist.py \
      --workdir=runs/fashion_mnist

Reads the four files where Debian's package `dataset-fashion-mnist` installs
them, or from --config.data_dir=DIR. The recipe is ours: short cosine schedules
with one epoch of warm-up, batch 64. Cost: about two minutes an epoch for the
teacher, less for a student, on two CPU cores; docs/results.md has the accuracy
that came out. The same recipe runs on --config.dataset=cifar10.
"""

from ml_collections import ConfigDict

from experiments.configs import resnet


def get_config() -> ConfigDict:
  """ResNet's recipe with a smaller pair and short cosine schedules."""
  config = resnet.get_config()
  config.dataset = 'fashion_mnist'
  config.batch_size = 64
  config.weight_decay = 5e-4
  config.teacher.depth = 20
  config.student.depth = 8
  short = dict(schedule='cosine', warmup_epochs=1.0, epochs=12)
  for name in ('train_teacher', 'scratch', 'kd'):
    config[name].update(short)
  # As many epochs in the two phases together as in the other methods' one.
  for name in resnet.COMPARE_IRS:
    config[name].update(dict(short, epochs=8))
  finetune = dict(short, epochs=4, warmup_epochs=0.0, learning_rate=0.02)
  config.finetune.update(finetune)
  config.prune.update(dict(finetune, learning_rate=0.01))
  return config
