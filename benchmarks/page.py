"""How quick the page is: python -m benchmarks.page [URL]; without a URL a service of its own is started.

tests/browser takes its measurements from here.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from statistics import median, quantiles

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.contenders import VAE_SERVE
from benchmarks.harness.load import serving

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")
MOVES = 400
VISITS = 20
SETTLE_MS = 1500
"""Before a visit, for the browser's own window, and after it, for the page."""
MOVE_MS = 16
"""Between two moves of the slider: as often as a screen is drawn."""

ON_IMAGE = """
const onImage = (begin) => {  // calls begin when #image is drawn; what it returns, when that is on the screen
    const { drawImage } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.drawImage = function (...given) {
        drawImage.apply(this, given);
        const shown = this.canvas.id === "image" && begin();
        if (!shown) return;
        requestAnimationFrame(() => {  // the frame that shows it; when its task ends it goes to the screen
            const { port1, port2 } = new MessageChannel();
            port1.onmessage = shown;
            port2.postMessage(null);
        });
    };
};"""
NOTE_FIRST_PICTURE = (
    f"(() => {{ {ON_IMAGE}"
    + """
    let drawn = false;
    onImage(() => {
        if (drawn) return undefined;
        drawn = true;
        return () => { globalThis.firstPicture = performance.now(); };
    });
})()"""
)
DRAG = (
    f"async ([moves, every]) => {{ {ON_IMAGE}"
    + """
    const moved = new Map();  // when the slider moved, by the latent that is then requested
    const latencies = [];
    let requested;
    const { fetch } = globalThis;
    globalThis.fetch = (url, options) => {
        if (String(url).endsWith("/decode")) requested = moved.get(options.body);
        return fetch(url, options);
    };
    onImage(() => {
        const since = requested;
        requested = undefined;
        return since && (() => latencies.push(performance.now() - since));
    });
    const slider = document.querySelector("#sliders input");
    const [low, high] = [Number(slider.min), Number(slider.max)];
    const others = [...document.querySelectorAll("#sliders input")].slice(1).map((other) => other.valueAsNumber);
    for (let move = 0; move < moves; move += 1) {
        const share = 0.5 + 0.45 * Math.sin(move / 9) + (move % 7) / 500;
        slider.value = low + share * (high - low);
        const z = [slider.valueAsNumber, ...others].map((value) => Math.round(value * 1e4) / 1e4 + 0);
        moved.set(JSON.stringify(z), performance.now());
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        await new Promise((resolve) => setTimeout(resolve, every));
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
    return latencies;
}"""
)


@dataclass(frozen=True)
class Times:
    """Milliseconds of something that was measured repeatedly."""

    name: str
    milliseconds: list[float]

    @property
    def count(self) -> int:
        """How often it was measured."""
        return len(self.milliseconds)

    def __str__(self) -> str:
        p95 = quantiles(self.milliseconds, n=20)[-1]
        return f"{self.name}: p50 {median(self.milliseconds):.1f} ms, p95 {p95:.1f} ms, {self.count} measured"


def walk_latency(page: Page, moves: int) -> Times:
    """From the event of a slider that moves without rest to the new pixels on the screen."""
    page.wait_for_selector("input[type=range]")
    return Times("From input event to new pixels", page.evaluate(DRAG, [moves, MOVE_MS]))


def first_picture(browser: Browser, url: str) -> float:
    """From navigation, with nothing in the cache, to the first image on the screen; milliseconds.

    The browser's own window has come to rest before, and nothing is asked of the page until the image is there.
    """
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script(NOTE_FIRST_PICTURE)
        page.wait_for_timeout(SETTLE_MS)
        page.goto(url, wait_until="commit")
        page.wait_for_timeout(SETTLE_MS)
        page.wait_for_function("globalThis.firstPicture")  # where it takes longer than that
        milliseconds: float = page.evaluate("globalThis.firstPicture")
        return milliseconds


def wire_size(browser: Browser, url: str) -> int:
    """Bytes, headers too, that a first visit takes until nothing more comes."""
    sizes: list[int] = []
    with browser.new_context() as context:
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        network.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
        page.goto(url, wait_until="networkidle")
    return sum(sizes)


def measure(url: str) -> None:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        print(f"First visit: {wire_size(browser, url)} bytes on the wire, headers too")
        print(Times("First picture after navigation", [first_picture(browser, url) for _ in range(VISITS)]))
        page = browser.new_page()
        page.goto(url, wait_until="networkidle")
        print(walk_latency(page, MOVES))
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        with serving(VAE_SERVE, 0) as (_, port):
            measure(f"http://127.0.0.1:{port}/")
