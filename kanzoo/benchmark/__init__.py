"""Measured speed and memory, always as ratios within one process."""
