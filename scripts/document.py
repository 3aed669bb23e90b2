"""Write the pages of docs/ and their plots from the code: python scripts/document.py."""

from kanzoo.document import main

if __name__ == "__main__":
    main()
