"""Measure layers against the dense limit: python scripts/benchmark.py layers --json FILE."""

from kanzoo.benchmark.main import main

if __name__ == "__main__":
    main()
