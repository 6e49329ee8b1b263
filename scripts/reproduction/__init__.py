"""From an experiment of several runs to one report; `scripts/reproduce.py` is its command."""
