"""One HTML file made of the page's parts: its modules joined into one script, style and measured curves inside."""

import json
import re
from pathlib import Path

WEB = Path(__file__).with_name("web")
MODULES = ("positions", "draw", "foundations", "windows", "main")  # each after those it imports


def render(measured: dict) -> str:
    """The page as HTML, with the curves of `measured` (measured.py) in it."""
    data = json.dumps(measured, separators=(",", ":")).replace("</", "<\\/")
    parts = {
        "/*style*/": (WEB / "style.css").read_text(encoding="utf-8"),
        "/*measured*/": data,
        "/*script*/": "\n".join(_as_constant(name) for name in MODULES),
    }
    page = (WEB / "index.html").read_text(encoding="utf-8")
    for mark, part in parts.items():
        page = page.replace(mark, part)
    return page


def _as_constant(module: str) -> str:
    """A JavaScript module as a constant that holds its exports, for a script without modules.

    A page opened from a file may not load modules from other files.
    """
    code = (WEB / f"{module}.js").read_text(encoding="utf-8")
    names = re.findall(r"^export (?:const|function) (\w+)", code, re.M)
    code = re.sub(r"^export ", "", code, flags=re.M)
    code = re.sub(r'^import (?:\* as )?(.+?) from "\./(\w+)\.js";', r"const \1 = \2Module;", code, flags=re.M)
    return f"const {module}Module = (() => {{\n{code}\nreturn {{ {', '.join(names)} }};\n}})();"
