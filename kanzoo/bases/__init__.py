"""Bases: expansions of one number in functions of it."""
