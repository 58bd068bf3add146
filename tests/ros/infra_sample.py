"""A small lifecycle node for the tests of the base classes; it misbehaves as its parameters say."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from std_msgs.msg import String

from internvla_a1.core.errors import ConfigError
from internvla_a1.ros import qos
from internvla_a1.ros.lifecycle import ManagedNode
from internvla_a1.ros.params import number, text
from internvla_a1.ros.run import run_node


@dataclass(frozen=True)
class SampleParams:
    speed: float = number(1.0, "m/s", 0.0, 2.0, "Speed")
    fault: str = text("none", "Misbehaviour", choices=("none", "refuse", "crash", "hang"))


class SampleNode(ManagedNode):
    def __init__(self) -> None:
        super().__init__("sample", SampleParams)

    def configure(self, params: SampleParams) -> None:
        if params.fault == "refuse":
            raise ConfigError("the sample refuses")
        if params.fault == "crash":
            raise ZeroDivisionError("the sample crashes")
        self.out = self.publisher(String, "sample/out", qos.RELIABLE)
        self.subscription(String, "sample/in", self.on_text, qos.RELIABLE)
        self.hang = params.fault == "hang"

    def on_text(self, message: String) -> None:
        if self.hang:
            time.sleep(60.0)
        self.out.publish(String(data=str(1 / len(message.data))))  # raises for an empty text

    def deactivate(self) -> None:
        self.out.publish(String(data="last words"))
        self.get_logger().info("deactivated")


if __name__ == "__main__":
    sys.exit(run_node(SampleNode))
