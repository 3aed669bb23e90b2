"""Any basis, a block of features at a time, computed again in the backward."""
