"""A network as data: a closed set of operators with attributes, values with layouts, and weights.

- ``operators``, ``resampling``: the operators and their attributes; ``relayouts``: those that only
  move elements.
- ``layouts``: axes as products of symbols, which say where the images of a batch are.
- ``graph``: :class:`~lmaunet.graph.graph.Graph`, checked when it is made.
- ``file``: a graph and its weights on disk, with a digest.
- ``layers``: parameters, multiply-accumulates and output shapes.
- ``capture``, ``rules``: a torch module to a graph, once, by ``torch.export``.
- ``stand_ins``: what a network that was written for mamba_ssm is imported with.
- ``module``: a graph to a torch module.
- ``agreement``: a captured graph held to its module.

Only the last four lines need torch.
"""
