"""The GAN demo: StarGAN of 18 layers → 10 on small portraits, three ways.

  python -m experiments.celeba --config=experiments/configs/demo_gan.py \
      --workdir=runs/demo-gan

The teacher comes with the package (lit_jax/networks/teachers/README.md): it
gives the emoji of a person another skin tone, or makes a man a woman and back.
LIT's student learns the six residual units in two from their input and output
alone, all else being copied, and is then fine-tuned with the discriminator; L2
learns from the teacher's images, scratch by the adversarial loss, each for
eight epochs. All train on 480 images of 40 people; the table and the pictures
are of ten other people. The networks are a quarter as wide as published. So few
images need to be shifted, and the reconstruction to be weighed higher; settings
were chosen on five of the 40 people, held out (docs/results.md). Cost: less
than ten minutes on two CPU cores; docs/translations.md has the table and the
picture that came out.
"""

from ml_collections import ConfigDict

from experiments.configs import stargan


def get_config() -> ConfigDict:
  """StarGAN's recipe with narrow networks and short schedules."""
  config = stargan.get_config()
  config.repeats = 10  # an epoch is 300 steps
  config.shift = 4
  config.n_critic = 1
  config.reconstruction = 50.0
  config.discriminator_width = 16
  config.teacher.update(dict(width=16, checkpoint='embedded'))
  config.student.width = 16
  config.judge.depth = 8
  config.train_judge.epochs = 3
  config.train_teacher.update(
    dict(epochs=40, learning_rate=1e-3, milestones=(15,))
  )
  config.scratch.update(dict(epochs=8, learning_rate=1e-3, milestones=(3,)))
  config.lit.update(
    dict(epochs=4, learning_rate=2e-3, schedule='linear', milestones=(2,))
  )
  config.finetune.update(
    dict(epochs=4, learning_rate=2e-4, schedule='linear', milestones=(2,))
  )
  config.l2.update(
    dict(epochs=8, learning_rate=1e-3, schedule='linear', milestones=(3,))
  )
  return config
