import json
import re
import urllib.request

import numpy as np

from internvla_a1.demo.domain import DomainLease
from internvla_a1.demo.view import LiveView


def test_two_demos_never_share_a_domain() -> None:
    first, second = DomainLease(), DomainLease()
    try:
        assert first.domain != second.domain
        assert {first.domain, second.domain} <= set(range(10, 101))
        taken = first.domain
        first.close()
        first = DomainLease()
        assert first.domain == taken, "a domain given back is free again"
    finally:
        first.close()
        second.close()


def test_the_live_page_shows_the_newest_picture_and_the_score() -> None:
    view = LiveView()
    try:
        assert view.url.startswith("http://127.0.0.1:")
        assert b"InternVLA-A1" in urllib.request.urlopen(view.url, timeout=5).read()
        view.state(correct=3, wanted=10, instruction="put the red box in the left bin")
        state = json.loads(urllib.request.urlopen(view.url + "state", timeout=5).read())
        assert state["correct"] == 3
        view.show(np.full((36, 64, 3), 200, np.uint8))
        with urllib.request.urlopen(view.url + "film", timeout=10) as film:
            view.show(np.full((36, 64, 3), 100, np.uint8))
            head = film.read(64)
        assert re.match(rb"--frame\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8", head)
    finally:
        view.close()
