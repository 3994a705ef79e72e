import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.quant.integer_network import integer_scans, record_scans, scan_sites
from lmaunet.quant.scan_formats import choose_for_network, read_formats, write_formats
from lmaunet.scan.choice import CHANNEL_ALLOWANCE_DB
from lmaunet.scan.formats import ScanScales, Widths, spec_for
from lmaunet.train.metrics import predict_logits

TARGET_DB = 40.0


@pytest.fixture(scope="module")
def images(tiny_data):
    return tiny_data.train.images[:4]


@pytest.fixture(scope="module")
def formats(tiny_quantized, images):
    return choose_for_network(tiny_quantized, images, TARGET_DB)


def test_sites_are_those_of_the_network(tiny_model, tiny_quantized):
    sites = scan_sites(tiny_quantized)
    assert [site.name for site in sites] == [f"stages.{i}.mamba.scan" for i in range(4)]
    for site, stage in zip(sites, tiny_model.stages, strict=True):
        mamba = site.name.removesuffix(".scan")
        values = ("silu", "dt_proj", "x_proj.1", "x_proj.2", "scan")
        assert site.scales == ScanScales(*(tiny_quantized.scale(f"{mamba}.{v}") for v in values))
        assert len(set(asdict(site.scales).values())) == 5
        np.testing.assert_array_equal(site.D, stage.mamba.D.detach().numpy())
        np.testing.assert_allclose(site.A, -np.exp(stage.mamba.A_log.detach().numpy()), rtol=1e-6)


def test_recorded_codes_give_the_networks_own_result(tiny_quantized, images):
    """The real scan of the recorded codes is what the network's float scan computed from them."""
    sites, recorded = scan_sites(tiny_quantized), record_scans(tiny_quantized, images, batch=3)
    seen = []
    quantizer = tiny_quantized.quantizer(sites[1].name)
    handle = quantizer.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        tiny_quantized(torch.from_numpy(images))
    handle.remove()
    spec = choose_spec(sites[1], recorded[1])
    real = sites[1].integer(spec).run_real(*recorded[1].stimuli).output.swapaxes(0, 1)
    want = seen[0].flatten(2).transpose(1, 2).numpy()
    np.testing.assert_allclose(real * sites[1].scales.y, want, rtol=1e-4, atol=1e-5)


def choose_spec(site, codes, **widths):
    from lmaunet.scan.formats import observe_scan

    statistics = observe_scan(site.scales, site.A, *codes.stimuli[:3])
    return spec_for(site.scales, site.A, site.D, statistics, Widths(**widths))


def test_targets_are_met(formats):
    for entry in formats:
        assert entry.chosen.sqnr_db >= TARGET_DB
        assert entry.chosen.worst_channel_db >= TARGET_DB - CHANNEL_ALLOWANCE_DB


def test_the_network_computes_with_integer_scans(tiny_quantized, images, formats):
    """What a scan gives are the integer scan's codes; without the context all is as before."""
    specs = [entry.chosen.spec for entry in formats]
    before = predict_logits(tiny_quantized, images)
    codes = record_scans(tiny_quantized, images)[0]
    first = scan_sites(tiny_quantized)[0]
    coarse = choose_spec(first, codes, state_bits=4, per_channel=False)
    seen = []
    quantizer = tiny_quantized.quantizer(first.name)
    handle = quantizer.register_forward_hook(lambda m, a, o: seen.append(o))
    logits = []
    for spec in (specs[0], coarse):
        with integer_scans(tiny_quantized, [spec, *specs[1:]]) as saturations:
            logits.append(predict_logits(tiny_quantized, images))
        want = first.integer(spec).run(*codes.stimuli)
        got = seen.pop().flatten(2).transpose(1, 2).numpy() / first.scales.y
        np.testing.assert_array_equal(np.rint(got), want.y)
        assert saturations[0]["output"] == want.saturations["output"]
    handle.remove()
    # formats that meet their target may happen to give the float scan's codes; coarse ones can't
    assert not np.array_equal(logits[1], before)
    np.testing.assert_array_equal(predict_logits(tiny_quantized, images), before)
    error = np.square(logits[0] - before).mean() / np.square(before).mean()
    assert error < 1e-3


def test_bad_formats_are_seen(tiny_quantized, images, formats):
    """The mutant: a state of 4 bits in one scan; in its own output, and in the logits."""
    specs = [entry.chosen.spec for entry in formats]
    recorded = record_scans(tiny_quantized, images)
    site = scan_sites(tiny_quantized)[0]
    coarse = [choose_spec(site, recorded[0], state_bits=4, per_channel=False), *specs[1:]]
    outputs = []
    quantizer = tiny_quantized.quantizer(site.name)
    handle = quantizer.register_forward_hook(lambda m, a, o: outputs.append(o.numpy()))
    logits = [predict_logits(tiny_quantized, images)]
    for choice in (specs, coarse):
        with integer_scans(tiny_quantized, choice):
            logits.append(predict_logits(tiny_quantized, images))
    handle.remove()
    for name, found, factor in (("y", outputs, 4), ("logits", logits, 1)):
        real, fine, bad = found
        errors = [float(np.square(got - real).mean()) for got in (fine, bad)]
        assert errors[1] > factor * errors[0], name


def test_hooks_are_gone_after_an_error(tiny_quantized, images, formats):
    before = predict_logits(tiny_quantized, images)
    specs = [entry.chosen.spec for entry in formats]
    with pytest.raises(RuntimeError, match="stop"), integer_scans(tiny_quantized, specs):
        raise RuntimeError("stop")
    np.testing.assert_array_equal(predict_logits(tiny_quantized, images), before)


def test_formats_of_another_network(tiny_quantized, formats):
    with (
        pytest.raises(UserError, match="number formats of 1 scans, the network has 4"),
        integer_scans(tiny_quantized, [formats[0].chosen.spec]),
    ):
        pass


def test_no_images(tiny_quantized, images):
    with pytest.raises(UserError, match="no images to choose"):
        choose_for_network(tiny_quantized, images[:0], TARGET_DB)


def test_a_file_keeps_the_formats(tmp_path, formats):
    write_formats(tmp_path / "scan.json", formats)
    assert read_formats(tmp_path / "scan.json") == formats


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[1]", "[{}]", '[{"site": "a"}]', None, b"\xff\xfe"]
)
def test_a_file_that_holds_none(tmp_path, content):
    path = tmp_path / "scan.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="run qat again"):
        read_formats(path)


def test_a_damaged_entry(tmp_path, formats):
    content = [entry.to_json() for entry in formats]
    content[1]["spec"]["formats"]["state"] = 18
    (tmp_path / "scan.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not the number formats of a scan"):
        read_formats(tmp_path / "scan.json")
