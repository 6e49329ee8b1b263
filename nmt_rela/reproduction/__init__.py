"""From an experiment of several runs to one report; `nmt-reproduce` is its command."""
