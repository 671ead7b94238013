"""nver."""
