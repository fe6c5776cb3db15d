"""HTML pages that explain problems: `GET /problems` and `GET /problems/{slug}`."""

from __future__ import annotations

import html
import json
from http import HTTPStatus

from app.api import problems
from app.api.problems import Problem

_STYLE = """\
:root { color-scheme: light dark; --text: #1c2024; --muted: #60646c; --page: #fff; --code: #f2f4f7; --line: #d9dce1;
  --link: #0b62c4 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --muted: #a0a6ae; --page: #14171a; --code: #20252a; --line: #343a41; --link: #7db8ff }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text); font: 1rem/1.6 system-ui, sans-serif }
main { max-width: 44rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { margin: 0.5rem 0 0.75rem; font-size: 1.75rem; line-height: 1.25 }
h2 { margin: 2rem 0 0.25rem; font-size: 1.125rem }
p { margin: 0.25rem 0 }
a { color: var(--link) }
nav { display: flex; gap: 1.25rem }
code, pre { background: var(--code); border-radius: 4px; font: 0.875em/1.5 ui-monospace, monospace }
code { padding: 0.1em 0.3em; overflow-wrap: anywhere }
pre { margin: 0.5rem 0; padding: 0.75rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere }
.status { color: var(--muted) }
ul { margin: 1.5rem 0; padding: 0; list-style: none }
li { display: grid; grid-template-columns: 3.25rem 1fr; padding: 0.6rem 0; border-top: 1px solid var(--line) }
li code { grid-column: 2; justify-self: start; margin-top: 0.2rem; color: var(--muted) }
"""


def render_page(problem: Problem) -> str:
    """Return the page that explains one problem. Its links are relative to `/problems/{slug}`."""
    document = json.dumps(problems.example_document(problem), indent=2, ensure_ascii=False)
    return _render(
        problem.title,
        f"""\
<nav><a href="../problems">All problems</a> <a href="../docs">API documentation</a></nav>
<h1>{html.escape(problem.title)}</h1>
<p class="status"><code>{problem.slug}</code> · HTTP status {_format_status(problem.status)}</p>
<h2>What it means</h2>
<p>{_format_code(problem.meaning)}</p>
<h2>What to do</h2>
<p>{_format_code(problem.remedy)}</p>
<h2>Example</h2>
<pre>{html.escape(document, quote=False)}</pre>
""",
    )


def render_list() -> str:
    """Return the page that lists all problems. Its links are relative to `/problems`."""
    items = "\n".join(
        f'<li><span class="status">{row.status}</span> <a href="problems/{row.slug}">{html.escape(row.title)}</a> '
        f"<code>{row.slug}</code></li>"
        for row in sorted(problems.TABLE, key=lambda row: row.status)
    )
    return _render(
        "Problems",
        f"""\
<nav><a href="docs">API documentation</a></nav>
<h1>Problems</h1>
<p>Every error is an <code>{problems.MEDIA_TYPE}</code> document (RFC 9457). Its <code>type</code> is the path of one of
these pages.</p>
<ul>
{items}
</ul>
""",
    )


def _render(title: str, content: str) -> str:
    return f"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)} – restore</title>
<style>
{_STYLE}</style>
<main>
{content}</main>
</html>
"""


def _format_status(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


def _format_code(text: str) -> str:
    """Return `text` as HTML, with the parts in backticks as code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
