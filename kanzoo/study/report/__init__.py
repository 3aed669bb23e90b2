"""From the results of a study to its report."""
