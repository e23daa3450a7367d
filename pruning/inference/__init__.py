"""Running a pruned model: its key-value cache, and states that candidates share."""
