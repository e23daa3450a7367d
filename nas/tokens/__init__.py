"""What `--tokens` means: the schedules to search, the strategies that select tokens, their description."""
