#!/usr/bin/env python3
"""Takes the picture of a page for the README: report_picture.py PAGE.html PICTURE.png [HEIGHT].

Needs playwright (tests/peers/requirements.txt) and a chromium. The picture is 1280 pixels wide, in light colours, and reduced to 256
colours, so that it stays small. docs/replay_report.png is the report of the demo bag with a deliberate fault:

    pi0_tt replay tests/data/bags/aloha_transfer_cube ... --record BASELINE
    pi0_tt replay tests/data/bags/aloha_transfer_cube ... --baseline BASELINE --report DIR     # after the fault
    tools/report_picture.py DIR/index.html docs/replay_report.png
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

page_file, picture = Path(sys.argv[1]), Path(sys.argv[2])
height = int(sys.argv[3]) if len(sys.argv) > 3 else 1500
chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if chromium is None:
    sys.exit("No chromium was found: apt-get install chromium")
with sync_playwright() as api:
    browser = api.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
    page = browser.new_page(viewport={"width": 1280, "height": height}, color_scheme="light")
    page.goto(page_file.resolve().as_uri())
    # The bar of the chunks belongs to the window, not to the picture.
    page.add_style_tag(content=".navigator { display: none !important; }")
    shot = page.screenshot()
    browser.close()
Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)
print(f"{picture}: {picture.stat().st_size} bytes")
