"""From URL to binary."""
