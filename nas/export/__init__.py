"""From a model in memory to the files that are deployed, each checked against the model."""
