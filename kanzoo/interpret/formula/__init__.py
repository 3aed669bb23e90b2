"""Formulas from trained networks and from data."""
