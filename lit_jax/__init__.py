"""lit_jax: shallower, faster networks by block-wise training (LIT)."""

from lit_jax.blocks import BlockNet, check_pair
from lit_jax.networks.summary import summary
from lit_jax.objectives import Objective

__all__ = ['BlockNet', 'Objective', 'check_pair', 'summary']
