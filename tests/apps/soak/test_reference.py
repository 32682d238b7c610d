"""Which runs are built first, and when they are built again."""

from jaxtrain.apps.soak import reference, targets


def test_parents_are_those_of_the_commands_and_theirs_in_order():
    commands = {one.name: one.command for one in targets.TARGETS}
    assert reference.needed([commands["pretrain"]]) == []
    assert reference.needed([commands["sft"]]) == ["base"]
    assert reference.needed([commands["dpo"]]) == ["base", "sft"]
    assert reference.needed(commands.values()) == ["base", "sft", "reward"] == list(targets.PARENTS)


def test_a_folder_is_emptied_in_place(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    inode = tmp_path.stat().st_ino
    reference.empty(tmp_path)
    assert tmp_path.stat().st_ino == inode and not list(tmp_path.iterdir())
    reference.empty(tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_references_are_of_this_version_of_the_sources(tmp_path, monkeypatch):
    for name in ("jaxtrain", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("1")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    before = reference.sources()
    assert reference.sources() == before
    (tmp_path / "experiments" / "x.py").write_text("2")
    assert reference.sources() != before
