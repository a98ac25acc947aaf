"""Muon for the matrices, AdamW for the rest."""

import torch

from settings import DEVICE


class Optimizer:
    """Muon (orthogonalised momentum, scaled so that AdamW's learning rates fit) for matrices and
    convolutions of hidden layers, AdamW for everything else. Matrices of one shape are orthogonalised
    together."""

    def __init__(self, named, rate, use_muon, weight_decay=0.01, betas=(0.9, 0.97)):
        rest, shapes = [], {}
        for name, p in named:
            if use_muon(name) and p.ndim >= 2:
                shapes.setdefault((p.shape[0], p[0].numel()), []).append(p)
            else:
                rest.append(p)
        self.groups = [
            (group, torch.zeros(len(group), *shape, device=DEVICE))
            for shape, group in shapes.items()
        ]
        self.parameters = rest + [p for group, _ in self.groups for p in group]
        self.adam = torch.optim.AdamW(
            rest, rate, betas=betas, weight_decay=weight_decay, fused=DEVICE == "cuda"
        )
        self.rate, self.weight_decay = rate, weight_decay

    @torch.no_grad()
    def step(self, scale, muon_ratio=1.5):
        """One step at scale times the rate; returns the norm of the gradient."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.rate * scale
        self.adam.step()
        for group, momentum in self.groups:
            gradient = torch.stack([p.grad.reshape(p.shape[0], -1) for p in group])
            momentum.lerp_(gradient, 0.05)
            update = orthogonalise(gradient.lerp(momentum, 0.95))
            rate = self.rate * scale * muon_ratio
            torch._foreach_mul_(group, 1 - rate * self.weight_decay)
            torch._foreach_add_(
                group,
                [u.view(p.shape) for p, u in zip(group, update.float())],
                alpha=-rate * 0.2 * max(update.shape[1:]) ** 0.5,
            )
        for p in self.parameters:
            p.grad = None
        return norm


def orthogonalise(g):
    """Newton-Schulz iterations towards U V^T of each matrix."""
    x = g.bfloat16() if g.is_cuda else g
    if g.shape[1] > g.shape[2]:
        x = x.mT
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if g.shape[1] > g.shape[2] else x


class Average:
    """Moving average of parameters, short at first."""

    def __init__(self, parameters, longest):
        self.parameters, self.longest = list(parameters), longest
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step):
        torch._foreach_lerp_(
            self.values, self.parameters, 1 - min(self.longest, step / (step + 10))
        )

    @torch.no_grad()
    def apply(self):
        for p, value in zip(self.parameters, self.values):
            p.copy_(value)
