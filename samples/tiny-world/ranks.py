"""Training on several GPUs of one host, one process a GPU, as torchrun starts them.

Every process has its own videos and noise; gradients are averaged, so that the weights stay equal.
Where there is one process nothing here does anything.
"""

import os

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from settings import DEVICE


class Ranks:
    """The processes of a run; this one is number rank of count."""

    def __init__(self):
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.first = self.rank == 0
        if self.count == 1:
            return
        if DEVICE == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if DEVICE == "cuda" else "gloo")

    def agree(self, number):
        """The first process's number, for all."""
        if self.count == 1:
            return number
        shared = torch.tensor(number, dtype=torch.float64)
        dist.broadcast(shared, 0)
        return shared.item()

    @torch.no_grad()
    def equalise(self, parameters):
        """Gives all processes the first one's parameters."""
        if self.count > 1:
            for p in parameters:
                dist.broadcast(p.data, 0)

    @torch.no_grad()
    def average_gradients(self, parameters):
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = parameters_to_vector(gradients)
        dist.all_reduce(flat)
        vector_to_parameters(flat / self.count, gradients)

    def end(self):
        """For all processes together; none leaves while another still works."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()
