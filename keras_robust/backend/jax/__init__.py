"""The backend for JAX."""
