"""Pictures of the Budget page for the README, from the demo's agents.

Run `python docs/screenshots.py [FOLDER]` in an environment with the extras `demo` and `browser`.
It starts `gateway demo`, waits for the runaway to be stopped, and takes every picture twice.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

PAGES = {"overview": "/", "workspace": "/ui/workspaces/runaway-coder"}
SIZES = {"wide": (1440, 900), "phone": (360, 780)}
SCHEMES = ("light", "dark")


async def main(folder: Path) -> None:
    """Take all pictures."""
    async with running_demo() as url, async_playwright() as playwright:
        executable = shutil.which("chromium")
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=executable, args=arguments)
        for scheme in SCHEMES:
            for size in SIZES:
                await take(browser, url, scheme, size, folder)
        await browser.close()


async def take(browser: Browser, url: str, scheme: str, size: str, folder: Path) -> None:
    """Every page in one scheme and size."""
    width, height = SIZES[size]
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        locale="en-US",
        timezone_id="UTC",
    )
    page = await context.new_page()
    for name, path in PAGES.items():
        await page.goto(url + path)
        await page.wait_for_selector("html.js")
        picture = folder / f"{name}-{size}-{scheme}.png"
        await page.screenshot(path=picture, full_page=True)
    await context.close()


@asynccontextmanager
async def running_demo() -> AsyncIterator[str]:
    """The address of a demo whose runaway was refused a few times."""
    with tempfile.TemporaryDirectory() as data_dir:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "demo"),
            stdout=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "GATEWAY_DATABASE__DATA_DIR": data_dir,
                "GATEWAY_SERVER__PORT": "0",
            },
        )
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            url = await printed(process.stdout, r"API +(\S+)")
            await printed(process.stdout, r"HTTP (402)")
            await printed(process.stdout, r"HTTP (402)")
            reading = asyncio.create_task(process.stdout.read())
            yield url
        finally:
            process.terminate()
            await process.wait()
        await reading


async def printed(lines: asyncio.StreamReader, pattern: str) -> str:
    """What the pattern's group is in the next line that has it."""
    async with asyncio.timeout(90):
        async for line in lines:
            if match := re.search(pattern, line.decode()):
                return match[1]
    raise RuntimeError("the demo ended early")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(target))
