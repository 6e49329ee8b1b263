"""Reproduction of the paper's tables: experiment, steps, results, report."""
