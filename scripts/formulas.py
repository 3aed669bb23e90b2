"""Find the formulas of known suites in data again: python scripts/formulas.py."""

from kanzoo.reproduce.formulas import main

if __name__ == "__main__":
    main()
