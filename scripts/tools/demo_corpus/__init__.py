"""Generator of the demo corpus in ``data/demo``: a controlled English-German language with exact word alignments.

From the folder ``scripts``, ``python -m tools.demo_corpus`` writes the corpus anew.
"""
