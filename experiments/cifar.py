"""Compresses an image classifier.

  python -m experiments.cifar --config=experiments/configs/resnet.py \
      --workdir=DIR
"""

from experiments import cli, recipes

if __name__ == '__main__':
  cli.main(recipes.compression)
