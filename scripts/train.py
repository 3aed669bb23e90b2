"""Train one model: python scripts/train.py model=vit layers=kan_ffn data=mnist seed=1."""

from kanzoo.train import main

if __name__ == "__main__":
    main()
