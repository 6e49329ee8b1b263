"""Measures of translations and of attention: scores, word alignment, attention sparsity, log-probabilities."""
