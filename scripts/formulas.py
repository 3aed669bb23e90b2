"""Find the formulas of known suites, or Feynman's, in data: python scripts/formulas.py feynman."""

from kanzoo.reproduce.formulas import main

if __name__ == "__main__":
    main()
