"""The seam for JAX."""
