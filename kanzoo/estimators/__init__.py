"""scikit-learn estimators over KAN layers."""
