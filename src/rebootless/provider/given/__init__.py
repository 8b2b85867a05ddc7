"""Kernels from packages or directories that a user already has (`--from-packages DIR`)."""
