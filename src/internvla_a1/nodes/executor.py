"""The executor's process: it comes first from its first line on, so that one that was killed is back soon on a busy machine too."""

from __future__ import annotations

import sys

from internvla_a1.core.priority import come_first

_STARTING = 1  # before all that is ordinary, after an arm that moves
_GENERATOR = "rosidl_generator_py.generate_py_impl"  # writes message classes, with a parser that takes 0.1 s to import; nothing here does


def main() -> int:
    come_first(_STARTING)  # until the node has read what it is to be
    sys.modules.setdefault(_GENERATOR, None)  # type: ignore[arg-type]  # rosidl_generator_py then goes on without it

    from internvla_a1.nodes.executor_node import ExecutorNode  # a second of imports
    from internvla_a1.ros.run import run_node

    return run_node(ExecutorNode)


if __name__ == "__main__":
    sys.exit(main())
