"""The engine: many steps of any task, over devices, from and to checkpoints."""
