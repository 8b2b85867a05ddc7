"""Layer 6: the artifact. One file NAME.rlp holds the modules, what they change, and the proof."""
