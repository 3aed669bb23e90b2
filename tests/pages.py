"""HTML pages as tests read them."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Checks that tags nest and collects what a browser would fetch or run."""

    VOID = frozenset({"meta", "link", "br", "path", "use", "rect", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.source = text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("href", "src", "xlink:href", "action", "data"):
                self.links.append(value or "")
            if key == "id":
                self.ids.append(value or "")
            assert not key.startswith("on"), f"{tag} {key}"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
