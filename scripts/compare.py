"""Compare KANs with their MLP twins: python scripts/compare.py study=demo."""

from kanzoo.compare import main

if __name__ == "__main__":
    main()
