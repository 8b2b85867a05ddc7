"""Layer 2: facts about one kernel: its image, symbols, modules, configuration and names."""
