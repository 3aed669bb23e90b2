"""Kernels in C++: built at first use, called through ctypes."""
