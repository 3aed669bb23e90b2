"""Measure layers against the dense limit, or whole networks against their MLP twins.

python scripts/benchmark.py layers|models --json FILE
"""

from kanzoo.benchmark.main import main

if __name__ == "__main__":
    main()
