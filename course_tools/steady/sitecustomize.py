"""Let a Python that is started with this folder on PYTHONPATH take float32 where the code says bfloat16.

Muon rounds to bfloat16 in each step, and after a few steps two processors differ visibly; in float32 they do not.
"""

import torch

torch.Tensor.bfloat16 = lambda x: x.to(torch.float32, copy=True)  # Muon changes the copy in place
