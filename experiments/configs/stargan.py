"""StarGAN of 18 layers → 10 by LIT, with the paper's recipes.

  python -m experiments.celeba --config=experiments/configs/stargan.py \
      --workdir=runs/stargan --config.dataset=celeba --config.data_dir=DIR

Without a data set named, `emoji_portraits` is read, which comes with the
package; its images are of 32 pixels, the paper's are CelebA's of 128. Recipes:
Koratana et al., appendix A.3 (teacher and scratch 20 epochs of Adam, the rate
falling to 0 over the last ten; LIT 16 on the six residual units alone, all else
copied; 10 of fine-tuning, with the discriminator that the teacher was trained
by). Cost in multiply-accumulates: a CelebA image costs the teacher 10.0 G
forward and the student 5.2 G: for a GPU, whose times are not measured yet.

FID, KID and Inception Score need InceptionV3's weights, a file that you have:
--config.scores=inception --config.inception=FILE, such as the release
pt_inception-2015-12-05-6726825d.pth of pytorch-fid.
Any key can be set by a flag.
"""

from ml_collections import ConfigDict

from experiments.configs import resnet


def get_config() -> ConfigDict:
  """ResNet's keys with StarGAN's networks, data and schedules."""
  config = resnet.get_config()
  config.task = 'translate'
  config.dataset = 'emoji_portraits'  # celeba, domains
  # How images are read; see lit_jax.data.portraits.sources.PortraitOptions.
  config.data = ConfigDict(
    dict(
      path='',  # folder of the images; '' is in data_dir
      attributes='',  # names, separated by commas; '' is the data set's usual
      image_size=0,  # pixels a side; 0 is the data set's usual
      on_bad='stop',  # or 'skip': images that cannot be read are counted
      cache='',  # where decoded images are kept; '' is ~/.cache/lit_jax
    )
  )
  del config.crop
  config.flip = True  # mirror training images half of the time
  config.shift = 0  # pixels that training images are moved by at most
  config.batch_size = 16
  # No batch norm waits for the other devices.
  config.examples_per_device = 8
  config.examples_per_gpu = 4
  config.adam_betas = (0.5, 0.999)
  config.stitch = False  # translating and judging once for each block

  # What scores translations: 'attributes' trains a classifier (the judge) to
  # read them; 'inception' is FID, KID and Inception Score; or both.
  config.scores = 'attributes'
  config.inception = ''  # file of InceptionV3's weights, .pth or .safetensors
  config.inception_sha256 = ''  # of that file, to check it

  # The adversarial loss; see lit_jax/tasks/translate.py.
  config.discriminator_width = 64
  config.n_critic = 5  # steps of the discriminator for one of the generator
  config.gradient_penalty = 10.0
  config.classification = 1.0
  config.reconstruction = 10.0

  config.teacher = ConfigDict(
    dict(family='stargan', depth=18, width=64, checkpoint='')
  )
  config.student = ConfigDict(
    dict(family='stargan', depth=10, width=64, checkpoint='')
  )
  config.judge = ConfigDict(dict(family='resnet', depth=14))

  adam = dict(optimizer='adam', learning_rate=1e-4, output_loss='l2')
  adversarial = dict(adam, epochs=20, schedule='linear', milestones=(10,))
  for name in ('train_teacher', 'scratch'):
    config[name].update(adversarial)
  config.train_judge = resnet.phase(
    **(adam | dict(epochs=5, schedule='cosine', learning_rate=1e-3))
  )
  tenths = dict(adam, epochs=16, milestones=(8,), decay=0.1)
  # The block alone learns: β is 0, and all else is the teacher's.
  config.lit.update(dict(tenths, alpha=0.0, beta=0.0))
  config.finetune.update(
    dict(
      adam, epochs=10, learning_rate=5e-5, milestones=(5,), decay=0.1,
      alpha=1.0, copy='discriminator',
    )
  )  # fmt: skip
  # The teacher's images are the target, by mean squared error.
  config.l2 = resnet.phase(**(tenths | dict(alpha=0.0)))
  for name in ('kd', *resnet.COMPARE_IRS[1:], 'prune'):
    if name in config:
      del config[name]

  config.method = 'lit,l2,scratch,random,random_deep'
  config.methods = ConfigDict(
    dict(
      lit='lit,finetune', l2='l2', scratch='scratch', random='', random_deep=''
    )
  )
  config.full_depth = 'random_deep'
  return config
