"""The smoke studies leave no architecture out."""

from kanzoo import registry


def test_smoke_studies_hold_every_architecture() -> None:
    studies = [name for name in registry.names("study") if name.startswith("smoke")]
    held = [model for name in studies for model in registry.options("study", name)["models"]]
    series = {"dlinear", "nlinear"}  # whose data are downloaded
    assert sorted(held) == [name for name in registry.names("model") if name not in series]
