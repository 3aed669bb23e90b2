"""Evaluate a finished run again: python scripts/evaluate.py run=DIR."""

from kanzoo.evaluate import main

if __name__ == "__main__":
    main()
