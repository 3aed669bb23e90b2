"""Keep what studies have measured: python scripts/ledger.py add|check|merge|show|page."""

from kanzoo.ledger.main import main

if __name__ == "__main__":
    main()
