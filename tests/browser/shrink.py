"""Make pictures small: the colours that are used most stay as they are, the rest is brought near.

uv run --no-project --with pillow tests/browser/shrink.py picture.png ...
"""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import sys

from PIL import Image

for name in sys.argv[1:]:
    picture = Image.open(name).convert("RGB")
    used = sorted(picture.getcolors(1 << 24) or [], reverse=True)[:128]
    spread = picture.quantize(128, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in used for part in colour] + spread)
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(name, optimize=True)
