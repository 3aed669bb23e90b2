"""Repeat published figures for docs/reproductions.md: python scripts/reproduce.py [NAME ...]."""

from kanzoo.reproduce.published import main

if __name__ == "__main__":
    main()
