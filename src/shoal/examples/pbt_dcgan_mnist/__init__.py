"""A population of generative adversarial networks that learn to write digits: ``python -m`` with this package's name.

- ``common``: generator, discriminator, the network that scores, one round of training, a picture of the outcome
- ``lenet``: trains the network that scores, once, and keeps it
- ``pbt_dcgan_mnist_func``: the function that each member of the population runs
- ``__main__``: the whole run, with plots
"""
