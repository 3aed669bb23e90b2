"""Show what a trained KAN has learned: python scripts/explain.py run=DIR."""

from kanzoo.explain import main

if __name__ == "__main__":
    main()
