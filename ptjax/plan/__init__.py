"""What a training step costs on a mesh of chips, compiled ahead of time: memory, FLOPs, traffic, and time at best."""

from ptjax.plan.plan import Plan, plan

__all__ = ["Plan", "plan"]
