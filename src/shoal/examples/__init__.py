"""Examples that run, to copy from. ``pip install 'shoal[examples]'`` brings what they need.

- ``digits``: real MNIST digits as NumPy arrays, 5,000 of them without a download
- ``mnist_pytorch``: a small ConvNet for them, its data loaders, one round of training, one of testing
- ``pbt_mnist``: a population of these ConvNets trained with PBT; ``python -m shoal.examples.pbt_mnist``
- ``pbt_dcgan_mnist``: a population of DCGANs that learn to write them; ``python -m shoal.examples.pbt_dcgan_mnist``
"""
