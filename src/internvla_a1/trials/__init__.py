"""The fault table on real processes: system figures, soak. Everything here stands outside of the stack and speaks ROS to it."""
