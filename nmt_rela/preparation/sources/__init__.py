"""Where text comes from: task files, downloads, archives, readers."""
