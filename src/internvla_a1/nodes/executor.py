"""The executor's process: it comes first from its first line on, so that one that was killed is back soon on a busy machine too."""

from __future__ import annotations

import sys

from internvla_a1.core.priority import REALTIME, come_first


def main() -> int:
    come_first(REALTIME)  # until the node has read what it is to be

    from internvla_a1.nodes.executor_node import ExecutorNode  # a second of imports
    from internvla_a1.ros.run import run_node

    return run_node(ExecutorNode)


if __name__ == "__main__":
    sys.exit(main())
