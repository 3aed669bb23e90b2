"""Fitting a chain of KAN layers by least squares."""
