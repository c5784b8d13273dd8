"""What docs/redis.md, docs/fluentd.md and docs/your-own-client.md show is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from tests.conftest import RunScript

DOCS = Path(__file__).parents[2] / "docs"


def examples() -> list[tuple[str, str]]:
    """Return each block of Python, and what it prints according to the block of text that follows."""
    pattern = r"^```python\n(.*?)^```$\n(?:\n^```text\n(.*?)^```$)?"
    return [
        (code, output)
        for page in ("redis", "fluentd", "your-own-client")
        for code, output in re.findall(pattern, (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    ]


@pytest.mark.parametrize(("code", "output"), examples())
def test_an_example_prints_what_stands_below_it(
    code: str, output: str, request: pytest.FixtureRequest, run_script: RunScript
) -> None:
    if "redis" in code:
        url = urlsplit(request.getfixturevalue("redis_url"))
        code = code.replace("Redis(", f"Redis(host={url.hostname!r}, port={url.port}, db={int(url.path[1:])}, ")

    done = run_script(code, env={"PYTHONWARNINGS": "ignore"})

    assert (done.returncode, done.stderr) == (0, "")
    if output:
        assert done.stdout == output
