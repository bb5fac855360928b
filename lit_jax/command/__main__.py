"""`python -m lit_jax.command`, where `lit-jax` is not on the path."""

from lit_jax.command import main

main()
