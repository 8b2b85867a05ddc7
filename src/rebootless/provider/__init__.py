"""Layer 3: where a kernel comes from: its image, configuration, source, symbols and compiler."""
