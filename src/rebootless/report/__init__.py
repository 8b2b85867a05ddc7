"""Layer 8: facts about a patch -> pages that people read."""
