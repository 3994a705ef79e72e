"""The article's ablation and study: what is trained, and its rows from scores."""

from types import SimpleNamespace

import article
import article_rows
import numpy as np
import pytest

from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.spec import named_spec
from lmaunet.stage import write_json
from lmaunet.train.schedule import Schedule


def test_a_quarter_of_the_widths_is_the_same_network_in_narrow():
    base = article.scaled(named_spec("base"), 0.25)
    assert base.widths == (14, 28, 36, 72, 128) and base.decoder_widths == base.widths[:4]
    assert base.pyramid_width == 128
    assert base == named_spec("base").replace(
        widths=base.widths, decoder_widths=base.decoder_widths, pyramid_width=128
    )
    assert article.scaled(named_spec("unet"), 1) == named_spec("unet")
    for factor, text in ((0, "more than 0 and at most 1"), (1.5, "at most 1"), (0.02, "less than")):
        with pytest.raises(UserError, match=text):
            article.scaled(named_spec("base"), factor)


def test_networks_are_told_by_name_and_unet_is_among_them():
    networks = article.networks_of("base,unet", 0.25, 128)
    assert list(networks) == ["unet", "base"] and networks["unet"].input_size == (128, 128)
    for names in ("base", "unet,unet", "unet,vnet"):
        with pytest.raises(UserError, match="give unet and any of unet, unet-large-kernel"):
            article.networks_of(names, 0.25, 128)


def test_a_draw_takes_whole_patients_and_others_each_time():
    patients = np.repeat(np.arange(30), 7)
    draws = [article.drawn_patients(patients, 20, k).tolist() for k in range(3)]
    assert all(len(set(draw)) == 6 for draw in draws)
    assert draws[0] == article.drawn_patients(patients, 20, 0).tolist()
    assert len({tuple(draw) for draw in draws}) == 3
    for percent in (0, 100, 99):
        with pytest.raises(UserError, match="give more than 0 and less than 100"):
            article.drawn_patients(patients, percent, 0)


def test_a_draw_is_a_data_set_beside_all_that_validates(tmp_path):
    patient = np.repeat(np.arange(10, dtype=np.int16), 2)
    images = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8)
    train, val = tmp_path / "x_train.npz", tmp_path / "x_val.npz"
    np.savez(train, image=images, label=images * 0, patient=patient)
    np.savez(val, image=images[:3], label=images[:3], patient=patient[:3] + 50)
    path, patients, whole, count = article.write_draw(train, 20, 1, tmp_path / "draws")
    drawn = np.load(path)
    assert (whole, count) == (20, 4) and len(patients) == 2
    assert set(drawn["patient"].tolist()) == set(patients)
    assert np.array_equal(drawn["image"], images[np.isin(patient, patients)])
    beside = path.with_name(path.name.replace("_train", "_val"))
    assert beside.read_bytes() == val.read_bytes()
    for wrong in (val, tmp_path, tmp_path / "y_train.npz"):
        with pytest.raises(UserError, match=r"draws patients of NAME_train\.npz beside"):
            article.write_draw(wrong, 20, 1, tmp_path / "draws")
    np.savez(train, image=images, label=images)
    with pytest.raises(UserError, match="has no array 'patient'"):
        article.write_draw(train, 20, 1, tmp_path / "draws")


def test_fewer_slices_take_as_many_steps():
    assert article.same_steps(5, 574, 115, 4) == 25  # 720 steps of 144, 725 of 29
    assert article.same_steps(3, 10, 10, 4) == 3
    assert article.same_steps(1, 8, 7, 4) == 1


def test_starts_are_given_for_both_networks(tmp_path):
    file = tmp_path / "model.pt"
    file.touch()
    both = [f"base={file}", f"unet={file}"]
    assert article.inits_of(both) == {"base": file, "unet": file}
    for words, text in ((both[:1], "both"), (["edge=x"], "base=FILE"), (["base=none"], "exist")):
        with pytest.raises(UserError, match=text):
            article.inits_of(words)


def test_a_command_is_shown_without_the_folders_of_a_machine():
    shown = article.shown_init
    assert shown("base=/home/me/runs/a/pretrain/model.pt") == "base=runs/a/pretrain/model.pt"
    assert shown("unet=/home/me/model.pt") == "unet=model.pt"
    assert shown("/home/x_train.npz") == "/home/x_train.npz" and shown("--seeds=0") == "--seeds=0"


def test_what_is_finished_must_be_what_was_asked_for(tmp_path, monkeypatch):
    spec, schedule = named_spec("demo"), Schedule(2, 1e-3)
    looking = article.Trainings(tmp_path, only_finished=True)
    given = spec, DataSource(None), schedule, 0
    assert looking.scores("demo-s0", *given) is None and looking.missing == ["demo-s0"]
    folder = tmp_path / "demo-s1" / "train"
    folder.mkdir(parents=True)
    write_json(folder / "train.json", {"scores": {"dice": 0.5}, "history": [{"loss": 3}]})
    write_json(folder / "manifest.json",
               {"options": {"spec": spec.to_json(), "schedule": schedule.to_json()}})  # fmt: skip
    monkeypatch.setattr(article, "patient_distances", lambda *given: {"hd95_by_patient": {}})
    assert looking.scores("demo-s1", *given) == {
        "dice": 0.5, "last": {"loss": 3}, "hd95_by_patient": {}
    }  # fmt: skip
    with pytest.raises(UserError, match=r"was trained with schedule .*, expected .*'epochs': 9"):
        looking.scores("demo-s1", spec, DataSource(None), Schedule(9, 1e-3), 0)


def scores(*dices, loss=1.0):
    """Scores of one class in a case of each patient; HD95 is ten times what Dice lacks."""
    per_case = {f"p{i}_frame1": {"organ": dice} for i, dice in enumerate(dices)}
    mean = sum(dices) / len(dices)
    return {
        "dice": mean, "per_class": {"organ": mean}, "per_case": per_case, "last": {"loss": loss},
        "hd95_by_patient": {f"p{i}": 10 * (1 - dice) for i, dice in enumerate(dices)},
    }  # fmt: skip


SPECS = {
    name: named_spec(name).replace(widths=(4, 8, 8, 8, 8), decoder_widths=(4, 8, 8, 8),
                                   pyramid_width=8, input_size=(128, 128))
    for name in ("unet", "base")
}  # fmt: skip


@pytest.fixture
def counted(monkeypatch):
    """Layers of a spec without a capture, which takes seconds."""

    def layers(spec):
        return [SimpleNamespace(params=spec.widths[4], macs=1), SimpleNamespace(params=1, macs=2)]

    monkeypatch.setattr(article_rows, "layers_of", layers)
    monkeypatch.setattr(article_rows, "count_macs", lambda *given: 10**9)


def test_rows_are_over_the_seeds_that_all_have(counted):
    found = {
        "unet": {0: scores(0.8, 0.7), 1: scores(0.8, 0.7), 2: scores(0.1, 0.1)},
        "base": {0: scores(0.7, 0.8), 1: scores(0.7, 0.8)},
    }
    content = article_rows.ablation_rows(SPECS, found)
    assert content["seeds_of_all"] == [0, 1] and content["patients"] == 2
    unet, base = content["rows"]
    assert unet["dice"] == pytest.approx([75, 75]) and unet["hd95_pixels_mean"] == pytest.approx(
        2.5
    )
    assert unet["at_full_width"] == {"parameters": 369, "operations_at_512": 2 * 10**9}
    assert (unet["parameters"], unet["macs"]) == (9, 3)
    assert (unet["article"]["dice"], base["article"]["hd95_mm"]) == (76.3, 3.7)
    gain = base["against"]["unet"]
    assert "base" not in base["against"] and gain["dice_points"] == pytest.approx(0)
    # one patient gains 10 points and a pixel, the other loses as much
    assert gain["dice_interval"] == pytest.approx([-10, 10])
    assert gain["hd95_interval"] == pytest.approx([-1, 1])
    better = {**found, "base": {0: scores(0.9, 0.8)}}
    gain = article_rows.ablation_rows(SPECS, better)["rows"][1]["against"]["unet"]
    assert gain["dice_points"] == pytest.approx(10)
    assert gain["dice_interval"] == pytest.approx([10, 10])
    with pytest.raises(UserError, match="no seed has all of unet, base trained"):
        article_rows.ablation_rows(SPECS, {"unet": found["unet"], "base": {}})


@pytest.mark.parametrize(("base", "said"), [(0.9, "(the article's"), (0.2, "(not the article's")])
def test_the_table_says_whether_the_order_is_the_articles(counted, base, said):
    found = {"unet": {0: scores(0.5, 0.5)}, "base": {0: scores(base, base)}}
    content = article_rows.ablation_rows(SPECS, found)
    assert content["order_is_the_articles"] == (base > 0.5)
    lines = article_rows.ablation_table(content)
    assert said in lines[-1]
    cells = [cell.strip() for cell in lines[3].split("|")]
    assert cells[1:3] == ["base", "82.7"] and cells[4].startswith(f"{100 * base - 50:+.2f} (")


def test_a_study_gives_what_a_part_of_the_patients_costs(counted):
    def pair(all_of, part):
        return {"all": scores(all_of, all_of), "part": scores(part, part)}

    found = {
        ("base", "random"): {0: pair(0.9, 0.8), 1: pair(0.9, 0.7), 2: pair(0.9, 0.9)},
        ("unet", "random"): {0: pair(0.9, 0.7), 1: pair(0.9, 0.6)},
        ("base", "pretrained"): {0: pair(0.9, 0.85)},
        ("unet", "pretrained"): {0: pair(0.9, 0.85)},
    }
    content = article_rows.study_rows(SPECS, found)
    rows = {(row["network"], row["start"]): row for row in content["rows"]}
    assert rows["base", "random"]["draws"] == [0, 1]
    assert rows["base", "random"]["loss_points"] == pytest.approx([10, 20])
    # both patients lose alike, so that the interval is that over the draws
    assert rows["base", "random"]["loss_interval"] == pytest.approx([10, 20])
    assert rows["unet", "random"]["loss_points_of_the_article"] == 8.7
    assert rows["unet", "pretrained"]["loss_points_of_the_article"] is None
    more = {entry["start"]: entry for entry in content["unet_loses_more"]}
    assert more["random"]["points"] == pytest.approx(10)
    assert more["random"]["interval"] == pytest.approx([10, 10])
    assert more["random"]["points_of_the_article"] == pytest.approx(4.6)
    assert more["pretrained"]["points"] == pytest.approx(0)
    saved = {entry["network"]: entry["points"] for entry in content["pretraining_saves"]}
    assert saved == pytest.approx({"base": 5, "unet": 15})
    lines = article_rows.study_table({**content, "percent": 20})
    assert any(line.startswith("| base | random | 90.00, 90.00 | 80.00, 70.00 | +15.00 (+10.00 "
                               "to +20.00) | 4.1 |") for line in lines)  # fmt: skip
    del found["unet", "random"]
    with pytest.raises(UserError, match="no draw has all of its trainings"):
        article_rows.study_rows(SPECS, found)
