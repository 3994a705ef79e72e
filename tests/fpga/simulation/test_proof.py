"""What a proof of a design refuses, on a stand-in whose simulations say what a test wants."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import threading

import numpy as np
import pytest

from lmaunet.errors import Disagreement
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.simulation.dram import Dram
from lmaunet.fpga.simulation.network import NetworkRun
from lmaunet.fpga.simulation.proof import IMAGES, STALLED_IMAGES, eight_images, prove
from lmaunet.fpga.simulation.streams import Beats, Expected, Inside, checksum
from lmaunet.fpga.sizing.design import Fifo

RIGHT = np.arange(IMAGES * 2 * 2 * 3).reshape(IMAGES, 2, 2, 3)
ROOMY, ALONE, TIGHT, STALLED = range(4)
BEATS = Beats(16, 3, signed=True)
WORDS = [BEATS.words(image) for image in RIGHT]
STREAMS = (Inside("skip", "fifo_0", BEATS, 4), Inside("head, sums", "n1", BEATS, 4))


class StandIn:
    """A network of one join; ``changes`` are what a run, by its number, does otherwise."""

    waiting = frozenset({"skip"})
    chains = 0
    loaded = ()
    in_dram: tuple[str, ...] = ()
    spread = 0

    def __init__(self, changes):
        self.changes, self.runs, self.alone = changes, 0, ROOMY - 1

    def expected(self, images):
        assert len(images) == IMAGES
        sums = tuple(checksum(words) for words in WORDS)
        return Expected(RIGHT, STREAMS, {stream.name: sums for stream in STREAMS})

    def expected_words(self, image, name):
        return WORDS[int(image.ravel()[0])]

    def run(self, codes, depths, simulations, stalls, expected, kept=""):
        n = len(codes)
        found = NetworkRun(RIGHT[:n], 50, (40,) * (n - 1), {"skip": 9}, {"skip": 0}, {"skip": 3},
                           {"skip": 30}, 90, expected.checksums)  # fmt: skip
        self.runs += not kept  # that run again
        # those of several images are made at the same time
        self.alone += n == 1 and not kept
        number = STALLED if stalls is not None else TIGHT if n > 1 else self.alone
        changes = self.changes.get(number, {})
        if kept:
            assert changes["fault"][0] == kept
            return dataclasses.replace(found, kept=changes["fault"][2])
        if "fault" not in changes:
            return dataclasses.replace(found, **changes)
        name, sums, _ = changes["fault"]
        return dataclasses.replace(found, checksums=found.checksums | {name: sums})

    def roomy_depths(self):
        return {"skip": 100}

    def needed_depths(self, run):
        return run.needed

    def layout(self, tensor, depth):
        return fifo.layout(16 if tensor == "other" else 8, depth)

    def chain_delay(self, depths):
        assert depths == {"skip": 9}
        return self.chains

    def placed(self, styles):
        assert styles == {"skip": "ultra"}
        self.chains = 6
        return self

    def fifos(self, depths):
        return {"skip": Fifo(8, depths["skip"]), "other": Fifo(16, 2)}

    def module(self, depths):
        return RtlModule("network", (), {}, (), (), generated={"network.sv": "module"})


def proved(folder, changes, place=None):
    # an image's number stands in it
    codes = np.arange(IMAGES).repeat(4).reshape(IMAGES, 2, 2, 1)
    return prove(
        StandIn(changes), codes, folder, folder / "evidence", lambda line: None, place=place
    )


def test_a_design_that_is_right_is_proved(tmp_path):
    found = proved(tmp_path, {TIGHT: {"begins": {"skip": 4}, "ends": {"skip": 70}}})
    assert found.fifo_bits == 8 * 9 + 16 * 2
    content = found.to_json()
    assert content["bit_exact"] and content["interval_cycles"] == 40
    assert content["fifos"]["skip"] == {
        "bits": 8, "depth": 9, "pack": 1, "rows": 6, "segments": 1, "style": "auto"
    }  # fmt: skip
    assert content["streams"] == {"skip": {"begin": 3, "end": 30}}
    assert content["proof"] == {
        "streams_compared": 2, "images": IMAGES, "images_with_stalls": STALLED_IMAGES,
        "compared_with": "the integer executor, by a checksum of every stream and image",
    }  # fmt: skip
    # one image with roomy and one with finite FIFOs, too
    assert found.agreements[-1].n_total == 2 * (2 + IMAGES + STALLED_IMAGES)
    assert (tmp_path / "simulation.json").exists()


@pytest.mark.parametrize(
    ("run", "change", "message"),
    [
        (TIGHT, {"codes": RIGHT + (RIGHT == 7)}, "RTL, 8 images.*: 1 of 96 elements differ"),
        (
            STALLED,
            {"codes": (RIGHT + (RIGHT == 7))[:STALLED_IMAGES]},
            "RTL with stalls, 3 images.*: 1 of 36 elements differ",
        ),
        (ALONE, {"blocked": {"skip": 1}}, "the FIFO of skip refused a word in 1 cycles"),
        (ALONE, {"latency": 51}, "finite FIFOs change the latency: 51 cycles, expected 50"),
        (TIGHT, {"latency": 51}, "changes the latency of the first: 51 cycles, expected 50"),
        (TIGHT, {"intervals": (40, 41, 40)}, "the interval changes: 40, 41, 40 cycles between 4"),
        (TIGHT, {"intervals": (41, 41, 40)}, "the same from the second on$"),
    ],
)
def test_a_design_that_is_wrong_is_refused(tmp_path, run, change, message):
    with pytest.raises(Disagreement, match=message):
        proved(tmp_path, {run: change})
    assert not (tmp_path / "simulation.json").exists()


def test_the_longest_runs_are_made_at_the_same_time(tmp_path, monkeypatch):
    """And where both are wrong, the eight images say it."""
    under_way = threading.Barrier(2)

    def run(network, codes, depths, simulations, stalls, expected, kept=""):
        if len(codes) > 1 and not kept:
            under_way.wait(60)  # refuses to go on alone
        return old(network, codes, depths, simulations, stalls, expected, kept)

    old = StandIn.run
    monkeypatch.setattr(StandIn, "run", run)
    assert proved(tmp_path, {}).tight.latency == 50
    wrong = {"codes": RIGHT + (RIGHT == 7)}
    both = {TIGHT: wrong, STALLED: {"codes": wrong["codes"][:STALLED_IMAGES]}}
    with pytest.raises(Disagreement, match="RTL, 8 images"):
        proved(tmp_path, both)


def test_the_first_interval_is_of_a_pipeline_that_fills(tmp_path):
    found = proved(tmp_path, {TIGHT: {"intervals": (43, *[40] * 6)}}).to_json()
    assert (found["interval_cycles"], found["intervals"]) == (43, [43, *[40] * 6])


def test_chains_of_memories_may_add_what_a_word_needs_through_them(tmp_path):
    def place(fifos):
        assert fifos["skip"] == Fifo(8, 9)
        return {"skip": "ultra"}

    slower = {run: {"latency": 56} for run in (ALONE, TIGHT, STALLED)}
    assert proved(tmp_path, slower, place).tight.latency == 56
    for latency in (49, 57):
        wrong = {run: {"latency": latency} for run in (ALONE, TIGHT, STALLED)}
        with pytest.raises(Disagreement, match=f"{latency} cycles, expected 50 to 56"):
            proved(tmp_path, wrong, place)


def flipped(image: int, beat: int) -> np.ndarray:
    """Return the words of all images with the highest bit of a beat's second integer flipped."""
    words = np.array(WORDS)
    words[image, beat, 0] ^= np.uint64(1 << 31)
    return words


@pytest.mark.parametrize("run", [ROOMY, ALONE, TIGHT, STALLED])
def test_the_first_stream_that_differs_is_named_with_image_and_beat(tmp_path, run):
    count = (1, 1, IMAGES, STALLED_IMAGES)[run]
    image = count - 1
    words = flipped(image, 2)
    fault = ("head, sums", tuple(map(checksum, words[:count])), words[:count].ravel())
    message = (
        rf"stream head, sums differs from the integer executor in image {image} of {count}, beat 2 "
        rf"of 4, lane 1 of 3: got {RIGHT[image, 1, 0, 1] - 2**15}, expected "
        rf"{RIGHT[image, 1, 0, 1]}; 1 beats differ, both are in .*stream_head_sums.npz; it is the "
        "first in topological order of 1 that differ, 2 were compared"
    )
    with pytest.raises(Disagreement, match=message):
        proved(tmp_path, {run: {"fault": fault}})
    saved = np.load(tmp_path / "evidence" / "stream_head_sums.npz")
    assert (saved["got"] != saved["expected"]).sum() == 1


def test_a_stream_that_ends_early_is_named(tmp_path):
    """A word is missing, so that no second image went through whole."""
    words = np.array(WORDS[:STALLED_IMAGES]).ravel()[:7]
    fault = ("skip", (checksum(WORDS[0]),), words)
    with pytest.raises(Disagreement, match=r"stream skip .* image 1 of 3, where 3 of 4 beats came"):
        proved(tmp_path, {STALLED: {"fault": fault}})


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_eight_images_follow_others_than_themselves(count):
    codes = np.random.default_rng(0).integers(-128, 128, (count, 4, 4, 1))
    images = eight_images(codes)
    assert len(images) == IMAGES
    np.testing.assert_array_equal(images[: min(count, IMAGES)], codes[:IMAGES])
    assert len(np.unique(images, axis=0)) == min(4 * count, IMAGES)
    assert all((a != b).any() for a, b in itertools.pairwise(images))


def test_a_checksum_sees_value_order_and_place():
    words = np.arange(1, 41, dtype=np.uint64).reshape(20, 2)
    right = checksum(words)
    assert checksum(words.copy()) == right
    swapped, moved = words.copy(), np.roll(words, 1)
    swapped[[3, 4]] = swapped[[4, 3]]
    twice = words.copy()  # the highest bits of two words, which a sum of words would not see
    twice[[5, 9], 0] ^= np.uint64(1 << 63)
    for other in (swapped, moved, twice, words[:-1], np.vstack([words, [[0, 0]]])):
        assert checksum(other) != right
    for bit in range(64):
        assert checksum(words ^ (np.arange(20)[:, None] == 7) * np.uint64(1 << bit)) != right


@pytest.mark.parametrize(("bits", "lanes", "signed"), [(8, 3, True), (4, 5, False), (45, 2, True)])
def test_beats_and_words_are_each_others_reverse(bits, lanes, signed):
    low = -(1 << (bits - 1)) if signed else 0
    integers = np.random.default_rng(0).integers(low, low + (1 << bits), (2, 6, lanes))
    beats = Beats(bits, lanes, signed)
    words = beats.words(integers)
    assert words.shape == (12, -(-bits * lanes // 64))
    np.testing.assert_array_equal(beats.integers(words), integers.reshape(12, lanes))


class InDram(StandIn):
    """One whose FIFO is in DRAM where it is placed there, which changes images by 10 cycles."""

    spread = 10

    def placed(self, styles):
        found = copy.copy(self)
        found.changes, found.in_dram = self.changes, tuple(t for t in styles if styles[t] == "dram")
        return found


def in_dram(folder, changes, place):
    codes = np.arange(IMAGES).repeat(4).reshape(IMAGES, 2, 2, 1)
    network = InDram(changes)
    network.dram = Dram()
    return prove(network, codes, folder, folder / "evidence", lambda line: None, place=place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intervals": (40, 50, 45, 40, 40, 40, 40)}, ""),
        ({"intervals": (40, 51, 45, 40, 40, 40, 40)}, "the same from the second on to within 10"),
        ({"latency": 60}, ""),
        ({"latency": 61}, "expected 50 to within 10"),
    ],
)
def test_dram_may_change_cycles_by_so_much(tmp_path, change, message):
    # a copy counts on from the first run: one image, then several
    changes = {2: change}

    def place(fifos):
        return {"skip": "dram"}

    if not message:
        found = in_dram(tmp_path, changes, place)
        assert found.dram["interval_cycles"]["most"] == max(found.tight.intervals)
        return
    with pytest.raises(Disagreement, match=message):
        in_dram(tmp_path, changes, place)


def test_where_fifos_go_must_not_change_for_ever(tmp_path):
    places = iter(("dram", "ultra", "dram"))
    with pytest.raises(Disagreement, match="which FIFOs go into DRAM changed 3 times"):
        in_dram(tmp_path, {}, lambda fifos: {"skip": next(places)})
