"""Aggregate finished studies over their tasks: python scripts/aggregate.py runs/A runs/B."""

from kanzoo.aggregate import main

if __name__ == "__main__":
    main()
