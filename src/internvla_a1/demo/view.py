"""A live page on this machine: the overview as moving JPEG, the score beside it. Standard library only."""

from __future__ import annotations

import json
import os
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2

from internvla_a1.core.types import ImageArray

_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>InternVLA-A1 live</title><style>
body{margin:0;background:#fff;color:#1d2733;font:16px/1.5 system-ui,sans-serif} main{max-width:960px;margin:32px auto;padding:0 20px}
img{width:100%;border-radius:12px;background:#0d1117;aspect-ratio:16/9} b{font-size:34px;letter-spacing:-.02em} .m{color:#66727f}
.r{display:flex;gap:36px;margin:14px 0;align-items:baseline;flex-wrap:wrap}</style><main><img src=/film alt=overview>
<div class=r><span><b id=score>0</b> <span class=m>right</span></span><span class=m id=rest></span><span id=mode class=m></span></div>
<div id=instruction style="font-size:20px"></div></main><script>
async function tick(){try{const s=await(await fetch('/state')).json();score.textContent=(s.correct??0)+' of '+(s.wanted??0);
rest.textContent=(s.wrong??0)+' wrong, '+(s.missed??0)+' missed';mode.textContent='mode '+(s.mode||'starting')+(s.reason?' — '+s.reason:'');
instruction.textContent=s.instruction?'“'+s.instruction+'”':''}catch(e){}setTimeout(tick,300)}tick()</script></html>"""


class LiveView:
    """Serves on a free port of the loopback interface until closed."""

    def __init__(self) -> None:
        self._jpeg = b""
        self._state: dict[str, Any] = {}
        self._fresh = threading.Condition()
        self._closing = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, name="live view", daemon=True).start()

    def open(self) -> None:
        """Point the browser at the page, where there is one."""
        # Without a display a text browser would take over the terminal.
        if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            webbrowser.open(self.url)

    def show(self, image: ImageArray) -> None:
        """The newest picture, (height, width, 3) uint8 RGB."""
        done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
        if done:
            with self._fresh:
                self._jpeg = data.tobytes()
                self._fresh.notify_all()

    def state(self, **values: Any) -> None:
        """Score, instruction and mode beside the picture."""
        self._state = values

    def close(self) -> None:
        with self._fresh:
            self._closing = True
            self._fresh.notify_all()
        self._server.shutdown()
        self._server.server_close()


def _handler(view: LiveView) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self._send("text/html; charset=utf-8", _PAGE.encode())
            elif self.path == "/state":
                self._send("application/json", json.dumps(view._state).encode())
            elif self.path == "/film":
                self._film()
            else:
                self.send_error(404)

        def _send(self, kind: str, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _film(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            while True:
                with view._fresh:
                    view._fresh.wait(5.0)
                    data = view._jpeg
                    if view._closing:
                        return
                try:
                    self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + data + b"\r\n")
                except OSError:
                    return

        def log_message(self, format: str, *args: Any) -> None:
            """The terminal belongs to the progress bar."""

    return Handler
