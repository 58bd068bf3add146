"""`internvla-a1 up`: runs ROS 2 launch files (YAML front end) where the `launch` package is not installed."""
