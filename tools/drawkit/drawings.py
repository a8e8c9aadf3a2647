"All drawings by name."
from .contrast import mccl_pairs, mccl_scales, pairs
from .network import geiim_graph, geiim_hops, geiim_scales, road
from .recurrence import tail, wian_cell, wian_layer

DRAWINGS = {f.__name__: f for f in (road, geiim_graph, geiim_hops, geiim_scales, wian_cell, wian_layer, tail,
                                    pairs, mccl_pairs, mccl_scales)}
