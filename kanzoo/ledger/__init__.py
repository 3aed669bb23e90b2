"""Ledgers: what studies have measured, kept as files that others can check and add to."""
