"""Files: atomic writes, resumed downloads, and comparison with the spec in the metadata."""
