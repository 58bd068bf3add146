"""InternVLA-A1 (arXiv 2601.02456) as a ROS 2 stack."""

__version__ = "0.1.0"
