"""Solve Poisson's equation with a KAN and an MLP: python scripts/poisson.py --seeds 3."""

from kanzoo.study.poisson import main

if __name__ == "__main__":
    main()
