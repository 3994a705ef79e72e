"""The selective scan's arithmetic, in numpy: one recurrence over several algebras.

- ``recurrence``: the recurrence itself, the only place where it is written.
- ``real``: float64, where a cut is the identity. The reference.
- ``integer_algebra``: fixed point, where a cut rounds and saturates.
- ``integer``: the scan in it. Hardware computes it bit for bit.
- ``compiled``: the same, compiled by numba, for whole networks.
- ``fixed``: fixed-point numbers and their rounding.
- ``tables``: the integer algebra's softplus and 2^-v.
- ``formats``: how the formats of the cuts follow from a calibrated scan.
- ``choice``: the cheapest formats that keep a trained scan close enough to the real one.
- ``widths``: the range of every intermediate, which shows that 64 bits hold them all.
- ``bound``: how far integer can be from real.
- ``vectors``: stimuli and golden results for the benches of other implementations.
"""
