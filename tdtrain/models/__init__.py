"""Models that read lines and that write documents."""

import torch

# cuDNN's attention, torch's first choice on Hopper, plans 0.12 s for every length it has not seen, and here nearly
# every length is new; flash attention takes as long for any (benchmarks/LOG.md).
torch.backends.cuda.enable_cudnn_sdp(False)
