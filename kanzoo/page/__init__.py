"""One style for plots and pages."""
