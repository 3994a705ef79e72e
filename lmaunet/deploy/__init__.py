"""Commands, pipeline, report and targets: the only part that looks upward."""
