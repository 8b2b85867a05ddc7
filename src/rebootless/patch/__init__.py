"""Layer 3: from patch text to changed source files, with the line numbers of the original kept."""
