"""Kernels of the other function families and of rational functions."""
