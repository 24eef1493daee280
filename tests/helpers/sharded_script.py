"""`dopr` in processes that share the parameters, on a machine without a GPU.

    accelerate launch --config_file configs/accelerate/fsdp2.yaml sharded_script.py train ...

accelerate spreads parameters over accelerators only; here it is told that the CPU is one. What runs
is FSDP2 or DeepSpeed itself, with gloo in the place of nccl.
"""

import os
import sys
from typing import Any

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    begin = PartialState.__init__

    def begin_on_cpu(self: PartialState, cpu: bool = False, **kwargs: Any) -> None:
        begin(self, cpu=True, **kwargs)
        decided = "fsdp_plugin" in AcceleratorState._shared_state
        self.distributed_type = DistributedType.FSDP if decided else DistributedType.MULTI_GPU

    PartialState.__init__ = begin_on_cpu  # type: ignore[method-assign]

from dopr import cli

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
