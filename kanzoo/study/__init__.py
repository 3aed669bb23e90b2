"""Comparisons: cells of a study, budgets, engines, statistics and the report."""
