"""Compresses a text classifier.

  python -m experiments.amazon --config=experiments/configs/vdcnn.py \
      --workdir=DIR
"""

from experiments import cli, recipes

if __name__ == '__main__':
  cli.main(recipes.compression)
