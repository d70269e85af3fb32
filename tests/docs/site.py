"""Looks at the built site: ``python -m tests.docs.site FOLDER [PICTURES]``; `nox -s docs` does.

Each link within it leads to a page, and to a place on it, that is there; links to others are not
followed. And where there is a Chromium, each page is shown 400 and 1,300 pixels wide: nothing may
stand out of it. What is wider, a table or a program, is scrolled by itself. Given a folder for
pictures, it also leaves one of each page there, for looking.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import trio

from tests.cli.web.browser import Page, find_browser, open_page

__all__ = ["broken_links", "pages", "what_stands_out"]

WIDTHS = (400, 1300)
_SKIPPED = {"genindex.html", "py-modindex.html", "search.html"}  # made by Sphinx, of one word each
# Whatever ends to the right of the window, unless something around it is scrolled, or hides it.
_STANDS_OUT = """(() => {
  const wide = document.documentElement.clientWidth + 1;
  const found = [];
  if (document.documentElement.scrollWidth > wide) found.push('the page is scrolled sideways');
  const held = element => {
    for (let up = element; up && up !== document.body; up = up.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return true;
    return false;
  };
  for (const element of document.querySelectorAll('article *')) {
    const box = element.getBoundingClientRect();
    if (box.width && box.right > wide && !held(element))
      found.push(element.tagName + ': ' + element.textContent.trim().slice(0, 60));
    const style = getComputedStyle(element);
    if (['hidden', 'clip'].includes(style.overflowX) && box.width > 1
        && element.scrollWidth > element.clientWidth + 1)
      found.push('cut: ' + element.tagName + ': ' + element.textContent.trim().slice(0, 60));
  }
  for (const image of document.querySelectorAll('article img'))
    if (!image.complete || !image.naturalWidth) found.push('no picture: ' + image.src);
  return JSON.stringify(found.slice(0, 5));
})()"""
_READY = "document.readyState === 'complete' && location.href !== 'about:blank'"


class _Links(HTMLParser):
    """Reads which places a page has, and where its links and pictures are."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places.update(name for name in (found.get("id"), found.get("name")) if name)
        link = found.get("href" if tag == "a" else "src" if tag == "img" else "-")
        if link:
            self.links.add(link)


def pages(folder: Path) -> list[Path]:
    """The pages of the site that were written."""
    found = (page for page in folder.rglob("*.html") if "_static" not in page.parts)
    return sorted(page for page in found if page.name not in _SKIPPED)


def broken_links(folder: Path) -> Iterator[str]:
    """Each link within the site that leads nowhere, with its page."""
    read: dict[Path, _Links] = {}
    for page in folder.rglob("*.html"):
        read[page.resolve()] = links = _Links()
        links.feed(page.read_text())
    for page, links in read.items():
        for link in sorted(links.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            there = goal.is_file() and (
                not parts.fragment
                or goal not in read
                or unquote(parts.fragment) in read[goal].places
            )
            if not there:
                yield f"{page.relative_to(folder.resolve())}: {link}"


async def what_stands_out(
    browser: str, folder: Path, pictures: Path | None = None
) -> dict[str, list[str]]:
    """Show each page in each width; return what does not fit, by page and width."""
    found: dict[str, list[str]] = {}
    first, *_ = all_pages = pages(folder)
    async with open_page(browser, first.resolve().as_uri(), ready=_READY) as page:
        for width in WIDTHS:
            for file in all_pages:
                await _show(page, file.absolute().as_uri(), width)
                name = f"{file.relative_to(folder)} at {width}"
                wrong: list[str] = json.loads(await page.evaluate(_STANDS_OUT))
                if wrong:
                    found[name] = wrong
                if pictures is not None:
                    await page.picture(pictures / f"{file.stem}-{file.parent.name}-{width}.png")
    return found


async def _show(page: Page, url: str, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    await page.call("Emulation.setDeviceMetricsOverride", **metrics)
    await page.call("Page.navigate", url=url)
    await page.wait_for(f"{_READY} && location.href === {json.dumps(url)}")


def main(folder: Path, pictures: Path | None = None) -> int:
    """Look at all of it, and say what is wrong; return how many things are."""
    wrong = [f"broken link: {link}" for link in broken_links(folder)]
    browser = find_browser()
    if browser is None:
        sys.stdout.write("not looked at, as there is no Chromium on PATH\n")
    else:
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
        out = trio.run(what_stands_out, browser, folder, pictures)
        wrong += [f"{page}: {what}" for page, found in out.items() for what in found]
    said = [*wrong, f"{len(pages(folder))} pages, {len(wrong)} faults"]
    sys.stdout.write("\n".join(said) + "\n")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(bool(main(*map(Path, sys.argv[1:]))))
