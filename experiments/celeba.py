"""Compresses a generator that translates images.

  python -m experiments.celeba --config=experiments/configs/stargan.py \
      --workdir=DIR
"""

from experiments import cli, recipes

if __name__ == '__main__':
  cli.main(recipes.compression)
