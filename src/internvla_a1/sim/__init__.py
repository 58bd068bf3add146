"""The conveyor sorting cell in MuJoCo, its scripted expert, scoring and fault injectors. Knows core only."""

import os

# MuJoCo chooses its OpenGL platform when it is imported, so this cannot wait for the first picture.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")  # mesa rasterises in our thread: handing over costs more
