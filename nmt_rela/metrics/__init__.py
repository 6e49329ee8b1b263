"""Measures of translations and of attention: BLEU and chrF, word alignment, attention sparsity, log-probabilities."""
