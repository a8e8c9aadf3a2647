"What somebody with clips of her own meets: two data sets in one folder, links to nothing, one class."
import pytest

from micacl.core import MicaclError
from micacl.data.load import check_dataset, load_table
from micacl.data.open_sets import long_tail
from micacl.train.config import Config
from micacl.train.loop import train


def two_sets(root):
    "DFEW and FERV39k, two clips each, below one folder."
    for k in (1, 2):
        clip = root / "DFEW/Clip/clip_224x224" / f"{k:05d}"
        clip.mkdir(parents=True)
        (clip / "1.jpg").write_bytes(b"\xff\xd8\xff")
        part = root / "DFEW/EmoLabel_DataSplit" / f"{('train', 'test')[k - 1]}(single-labeled)"
        part.mkdir(parents=True)
        (part / "set_1.csv").write_text(f"video_name,label\n{k},{k}\n")
        clip = root / "FERV39k/2_ClipsforFaceCrop/Action/Sad" / f"{k:04d}"
        clip.mkdir(parents=True)
        (clip / "1.jpg").write_bytes(b"\xff\xd8\xff")
        lists = root / "FERV39k/4_setups/All_scenes"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{('train', 'test')[k - 1]}_All.csv").write_text(f"Action/Sad/{k:04d} Sad\n")
    return root


def test_two_data_sets_in_one_folder_are_not_chosen_from(tmp_path):
    two_sets(tmp_path)
    with pytest.raises(MicaclError, match="expected one data set, found ferv39k, dfew; name .*--dataset"):
        load_table(tmp_path)
    for name, folder in (("dfew", "DFEW"), ("ferv39k", "FERV39k")):
        assert load_table(tmp_path / folder).dataset == load_table(tmp_path, name).dataset == name


def test_a_link_to_nothing_is_called_that(tmp_path):
    for i in range(4): (tmp_path / f"{i}.mp4").write_bytes(b"x")
    try: (tmp_path / "link.mp4").symlink_to("gone.mp4")
    except OSError: pytest.skip("no links here")
    (tmp_path / "clips.csv").write_text("path,label\nlink.mp4,happy\n" + "".join(f"{i}.mp4,sad\n" for i in range(4)))
    said = [str(p) for p in check_dataset(tmp_path).problems]
    assert len(said) == 1 and "link.mp4: expected a clip, found a link to nothing" in said[0]


def test_a_tail_names_the_classes_that_are_missing(tmp_path):
    for i in range(8): (tmp_path / f"{i}.mp4").write_bytes(b"x")
    rows = [f"{i}.mp4,{('happy', 'sad')[i % 2]},{i // 4 + 1}\n" for i in range(8)]
    (tmp_path / "clips.csv").write_text("path,label,fold\n" + "".join(rows))
    with pytest.raises(MicaclError, match="found none of neutral, angry, surprise, disgust, fear; see micacl check"):
        long_tail(load_table(tmp_path), 1)


def test_a_training_on_one_class_says_so(data, tmp_path, capsys):
    clips = [c for c in load_table(data) if c.split == "train" and c.label == 0]
    (tmp_path / "one.csv").write_text("path,label\n" + "".join(f"{c.path},happy\n" for c in clips))
    r = train(tmp_path / "one.csv", tmp_path / "run", Config(epochs=1, image_size=32, pretrained=False), quiet=False)
    said = "all training clips are happy: scores say nothing; check the label column"
    assert said in r["notes"] and f"note: {said}" in capsys.readouterr().out
