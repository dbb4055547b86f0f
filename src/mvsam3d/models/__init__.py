"""The networks, one code path for every size."""
