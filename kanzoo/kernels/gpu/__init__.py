"""Kernels in Triton: layers whose functions are made in registers and never reach memory."""
