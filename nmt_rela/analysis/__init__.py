"""What the attention heads do: statistics, word alignment, head ablation, plots and an HTML page."""
