"""The wheel's description as an index page renders it: tables are there, links lead somewhere.

Run by ``nox -s package``, whose environment has the renderer that index pages use.
"""

from __future__ import annotations

import email
import re
import sys
import zipfile

from readme_renderer.markdown import render


def main(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(name))
    assert message["Description-Content-Type"] == "text/markdown"
    page = render(str(message.get_payload()))
    assert page is not None, "it cannot be rendered"
    assert len(re.findall("<table", page)) >= 2
    assert "<pre" in page
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert len(links) > 10
    assert not [link for link in links if not re.match("https:|#", link)]


if __name__ == "__main__":
    main(sys.argv[1])
