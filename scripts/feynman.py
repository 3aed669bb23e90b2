"""Find Feynman's equations in data, and write docs/feynman.md: python scripts/feynman.py."""

from kanzoo.reproduce.feynman import main

if __name__ == "__main__":
    main()
