from collections import OrderedDict

import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, restore


def prefixed(state, prefix):
    return OrderedDict((prefix + name, value) for name, value in state.items())


def inside(state, wrapper, below="stages.1."):
    """The names of a network of which one module is wrapped."""
    return {name.replace(below, f"{below}{wrapper}.", 1): v for name, v in state.items()}


def other(state):
    """A second set of weights, such as an average."""
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


WRAPPED = {
    "plain": (lambda s: s, ()),
    "DataParallel": (lambda s: prefixed(s, "module."), ("'module.' (DataParallel or DDP)",)),
    "twice": (lambda s: prefixed(s, "module.module."), ("'module.'",)),
    "torch.compile": (lambda s: prefixed(s, "_orig_mod."), ("'_orig_mod.' (torch.compile)",)),
    "compiled DDP": (
        lambda s: prefixed(s, "module._orig_mod."), ("'module.'", "'_orig_mod.' (torch.compile)")
    ),
    "compiled parts": (lambda s: inside(s, "_orig_mod"), ("'_orig_mod.' (torch.compile)",)),
    "FSDP": (
        lambda s: inside(prefixed(s, "_fsdp_wrapped_module."), "_fsdp_wrapped_module"),
        ("'_fsdp_wrapped_module.' (FSDP)",),
    ),
    "activation checkpointing": (
        lambda s: inside(s, "_checkpoint_wrapped_module"), ("activation checkpointing",)
    ),
    "Fabric": (lambda s: prefixed(s, "_forward_module."), ("(Lightning Fabric)",)),
    "Lightning": (
        lambda s: {
            "epoch": 3, "global_step": 40, "pytorch-lightning_version": "2.1.0",
            "state_dict": prefixed(s, "model."), "optimizer_states": [{"state": {}}],
            "hyper_parameters": {"lr": 1e-3}, "loops": {}, "callbacks": {"EarlyStopping": {}},
        },
        ("of PyTorch Lightning", "key 'state_dict'", "prefix 'model.'"),
    ),
    "Lightning, net": (
        lambda s: {"state_dict": prefixed(s, "net.")}, ("key 'state_dict'", "prefix 'net.'")
    ),
    "any prefix": (lambda s: prefixed(s, "segmenter.backbone."), ("prefix 'segmenter.'",)),
    "AveragedModel": (
        lambda s: {"n_averaged": torch.tensor(5), **prefixed(s, "module.")},
        ("prefix 'module.' (AveragedModel)",),
    ),
    "MONAI": (lambda s: {"net": s, "opt": {"state": {}, "param_groups": []}}, ("key 'net'",)),
    "network_weights": (
        lambda s: {
            "network_weights": s, "trainer_name": "T", "init_args": {"configuration": "2d"},
            "logging": {"ema_fg_dice": [np.float64(0.4)]}, "_best_ema": np.float64(0.4),
        },
        ("of nnU-Net's trainer", "key 'network_weights'"),
    ),
    **{
        key: (lambda s, key=key: {key: s, "epoch": 1, "optimizer": {}}, (f"key {key!r}",))
        for key in (
            "state_dict", "model", "model_state_dict", "model_state", "state", "weights", "params",
            "params_ema", "ema", "model_ema", "state_dict_ema", "module", "network", "generator",
        )
    },
    "nested": (
        lambda s: {"state": {"model": prefixed(s, "module._orig_mod."), "step": 4}},
        ("key 'state', key 'model', prefix 'module.'", "'_orig_mod.'"),
    ),
    "in a list": (lambda s: [s, {"state": {}, "param_groups": []}], ("key '0'",)),
    "DeepSpeed": (
        lambda s: {"module": s, "ds_version": "0.14", "optimizer": None}, ("of DeepSpeed",)
    ),
    "thop": (
        lambda s: {**s, "total_ops": torch.zeros(1), "stages.0.total_params": torch.zeros(1)},
        (),
    ),
    "criterion": (
        lambda s: {
            "state_dict": {
                **prefixed(s, "model."), "criterion.cross_entropy.weight": torch.ones(4),
                "val_metrics.dice.total": torch.zeros(1),
            }
        },
        ("prefix 'model.'",),
    ),
    "numpy arrays": (
        lambda s: {"weights": {k: v.numpy() for k, v in s.items()}}, ("key 'weights'",)
    ),
    "parameters": (
        lambda s: {
            k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()
        },
        (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
def test_every_wrapper_is_taken_off_and_named(kind, state, loaded_from, other_net, tmp_path):
    wrap, said = WRAPPED[kind]
    loaded = loaded_from(wrap(state))
    line = loaded.origin.line()
    for words in said:
        assert words in line
    if not said:
        assert "unwrapped" not in line
    restored = restore(loaded, tmp_path / "foreign.pt").state_dict()
    assert restored.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(restored[name], value), name
    assert (loaded.spec.classes, loaded.spec.in_channels) == (4, 2)


def test_what_stands_beside_the_network_is_named(state, loaded_from):
    content = {**prefixed(state, "net."), "criterion.weight": torch.ones(4), "epoch": 7}
    assert loaded_from(content).origin.notes[0] == "left aside: criterion.weight, epoch"


def test_an_unknown_tensor_beside_the_network_is_an_error(state, loaded_from):
    for extra in ("aux.weight", "net.aux.weight", "net.stages.0.gate"):
        with pytest.raises(UserError, match=r"0 tensors missing \[\], 1 unknown .*(aux|gate)"):
            loaded_from({**prefixed(state, "net."), extra: torch.ones(4)})


def test_a_prefix_that_only_some_names_have_is_none(state, loaded_from):
    content = {("module." if "decoder" in k else "") + k: v for k, v in state.items()}
    with pytest.raises(UserError, match=r"a part of an LMa-UNet: .* none of its decoder"):
        loaded_from(content)
    content = {("module." if "shallow" in k else "") + k: v for k, v in state.items()}
    with pytest.raises(UserError, match=r"in part under .*expected one prefix for all"):
        loaded_from(content)


def test_two_names_that_fall_together_are_refused(state, loaded_from):
    content = {**state, "_orig_mod.head.weight": state["head.weight"]}
    with pytest.raises(UserError, match=r"has both 'head.weight' and '_orig_mod.head.weight'"):
        loaded_from(content)


def test_a_tensor_that_is_none(state, loaded_from):
    with pytest.raises(UserError, match=r"holds a int for head\.weight, expected a tensor"):
        loaded_from({"model": {**state, "head.weight": 3}})


PAIRS = {
    "keys": (lambda s, o: {"model": s, "model_ema": o}, "model", "model_ema"),
    "timm": (lambda s, o: {"state_dict": s, "state_dict_ema": o}, "state_dict", "state_dict_ema"),
    "ema first": (lambda s, o: {"ema": o, "net": s}, "net", "ema"),
    "params": (lambda s, o: {"params_ema": o, "params": s}, "params", "params_ema"),
    "swa": (
        lambda s, o: {"model": s, "smooth": {"n_averaged": torch.tensor(3),
                                              **prefixed(o, "module.")}},
        "model", "smooth",
    ),
    "Lightning": (
        lambda s, o: {"state_dict": {**prefixed(s, "model."), **prefixed(o, "ema_model.module.")}},
        "state_dict.model", "state_dict.ema_model",
    ),
    "Lightning's WeightAveraging": (
        lambda s, o: {"state_dict": prefixed(o, "model."),
                      "current_model_state": prefixed(s, "model.")},
        "current_model_state.model", "state_dict.model",
    ),
    "ema_pytorch": (
        lambda s, o: {"initted": torch.tensor(True), "step": torch.tensor(2),
                      **prefixed(s, "online_model."), **prefixed(o, "ema_model.")},
        "online_model", "ema_model",
    ),
    "mean teacher": (
        lambda s, o: {**prefixed(s, "student."), **prefixed(o, "teacher.")}, "student", "teacher"
    ),
    "inside": (
        lambda s, o: {"state": {**prefixed(s, "model."), **prefixed(o, "model.ema.")}},
        "state.model", "state.model.ema",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PAIRS)
def test_of_two_sets_it_says_which_was_taken(kind, state, loaded_from):
    make, plain, averaged = PAIRS[kind]
    content = make(state, other(state))
    taken = loaded_from(content)
    assert torch.equal(taken.state["head.weight"], state["head.weight"])
    assert f"took {plain}, not {averaged} (--weights {averaged} takes it)" in taken.origin.line()
    assert (taken.origin.weights, taken.origin.others) == (plain, (averaged,))
    taken = loaded_from(content, weights=averaged)
    assert torch.equal(taken.state["head.weight"], state["head.weight"] + 1)
    assert f"took {averaged}, not {plain}" in taken.origin.line()
    with pytest.raises(UserError, match=f"--weights best: .* holds .*{averaged}.*one of these"):
        loaded_from(content, weights="best")


def test_two_names_of_one_set_are_both_there(state, loaded_from):
    taken = loaded_from({"model": state, "model_ema": state})
    assert (taken.origin.weights, taken.origin.others) == ("model", ("model_ema",))


def test_an_average_alone_is_taken(state, loaded_from):
    taken = loaded_from({"epoch": 3, "ema_state_dict": state})
    assert torch.equal(taken.state["head.bias"], state["head.bias"])


def test_two_networks_of_which_neither_is_an_average(state, loaded_from):
    content = {"best": state, "last": other(state)}
    with pytest.raises(UserError, match=r"2 networks: best, last; choose one: --weights best"):
        loaded_from(content)
    assert torch.equal(
        loaded_from(content, weights="last").state["head.bias"], state["head.bias"] + 1
    )
    assert loaded_from({"best": state, "last": dict(state)}).origin.weights == "best"


def test_weights_of_our_own_checkpoint_have_no_name(tmp_path, tiny_spec, other_net):
    from lmaunet.net.checkpoint import save_checkpoint

    path = tmp_path / "model.pt"
    save_checkpoint(path, other_net.spec, other_net)
    assert load_checkpoint(path).origin.line().startswith("of this program; LMa-UNet of widths")
    with pytest.raises(UserError, match=r"--weights ema: .* holds one set"):
        load_checkpoint(path, weights="ema")


def test_gradients_and_optimizer_states_are_no_weights(state, loaded_from):
    taken = loaded_from({"model": state, "optimizer": {"state": other(state)},
                         "gradients": other(state)})  # fmt: skip
    assert taken.origin.weights is None and taken.origin.others == ()


def test_a_file_that_holds_itself(state, loaded_from):
    content = {"model": state}
    content["self"] = content
    loaded = loaded_from(content)
    assert loaded.spec.classes == 4 and loaded.origin.others == ()


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_converted_and_said(kind, state, loaded_from, tmp_path):
    wanted = {k: v.to(getattr(torch, kind)) if v.is_floating_point() else v
              for k, v in state.items()}  # fmt: skip
    loaded = loaded_from(wanted)
    assert f"converted from {kind} to float32" in loaded.origin.notes
    restored = restore(loaded, tmp_path / "foreign.pt").state_dict()
    assert all(v.dtype != getattr(torch, kind) for v in restored.values())
    assert torch.equal(restored["head.weight"], wanted["head.weight"].float())


def test_counters_that_older_trainers_did_not_keep(state, loaded_from, tmp_path):
    loaded = loaded_from({k: v for k, v in state.items() if "num_batches" not in k})
    assert any("num_batches_tracked are not in the file" in n for n in loaded.origin.notes)
    restored = restore(loaded, tmp_path / "foreign.pt")
    assert torch.equal(restored.head.weight, state["head.weight"])


def test_attributes_that_a_pickle_hangs_on_a_tensor_are_left_behind(state, loaded_from, tmp_path):
    hung = torch.nn.Parameter(state["head.weight"])
    hung.float = 3
    loaded = loaded_from({**state, "head.weight": hung})
    assert torch.equal(restore(loaded, tmp_path / "f").head.weight, state["head.weight"])
