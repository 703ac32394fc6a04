"""A decode step as one CUDA graph: one launch a token instead of hundreds."""

from collections.abc import Callable

import torch


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """What ``run`` does, as a graph; calling the result replays it.

    ``run`` must launch the same on the same memory every time, and has run before: nothing may be
    compiled now. Raises RuntimeError where CUDA cannot capture it.
    """
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        run()
    return graph.replay
