"""See :mod:`shoal.examples.pbt_dcgan_mnist`."""
