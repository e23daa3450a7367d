"""The final selection: candidates are exported and measured, and the winner is certified."""
