"""BLEU and its kin, word alignment, attention sparsity."""
