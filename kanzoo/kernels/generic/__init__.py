"""Any basis: features are computed again in the backward."""
