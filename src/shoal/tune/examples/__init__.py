"""The examples under the name that people know; they live in :mod:`shoal.examples`."""
