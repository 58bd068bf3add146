"""What all tests share: one process that draws pictures and trains."""

import torch._dynamo  # noqa: F401  (with it triton's LLVM: loaded after Mesa's, when a picture has been drawn, it crashes; see train/pipeline.py)
