"""The demo: ResNet-20 → ResNet-8 on 2,000 images, three ways.

  python -m experiments.cifar --config=experiments/configs/demo.py \
      --workdir=runs/demo

The teacher comes with the package; it was trained on all 60,000 Fashion-MNIST
images, of which the students see 2,000. Scratch learns from their labels
alone, KD from the teacher's logits too, LIT from its intermediate
representations as well. All three train for the same number of epochs, with a
batch size, learning rates and a β that were chosen on 500 of the 2,000 images,
held out (docs/results.md). Cost: a few minutes on two CPU cores; the README has
the table that came out.
"""

from ml_collections import ConfigDict

from experiments.configs import fashion_mnist


def get_config() -> ConfigDict:
  """The Fashion-MNIST recipe on the small set."""
  config = fashion_mnist.get_config()
  config.dataset = 'fashion_mnist_mini'
  config.method = 'scratch,kd,lit'
  config.batch_size = 16
  config.weight_decay = 1e-4
  config.crop = False  # in so short a training, shifted images only underfit
  config.teacher.checkpoint = 'embedded'
  for name in ('scratch', 'kd'):
    config[name].epochs = 20
  for name in ('lit', 'annealed'):
    config[name].update(dict(epochs=16, beta=0.25))
  config.finetune.update(dict(epochs=4, learning_rate=0.005))
  config.prune.update(dict(epochs=4, learning_rate=0.01))
  return config
