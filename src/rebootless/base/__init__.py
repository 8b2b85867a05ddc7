"""Layer 0: errors, programs, files, progress. Knows nothing about kernels."""
