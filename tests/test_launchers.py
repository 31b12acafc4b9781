"""The shipped configurations are what accelerate reads, and what training allows."""

import argparse

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from boostershot import ImmunizeArguments, launchers
from boostershot.cli import call

KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "gpu-bf16": "NO"}


def read(name: str, folder) -> tuple[str, argparse.Namespace]:
    """A configuration's file, and the arguments that `accelerate launch --config_file FILE` makes of it."""
    path = folder / f"{name}.yaml"
    path.write_text(launchers.text(name))
    given = launch_command_parser().parse_args(["--config_file", str(path), "-m", "boostershot", "recipes"])
    return str(path), _validate_launch_command(given)[0]


def test_every_configuration_is_tested():
    assert launchers.names() == sorted(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it_and_training_allows_it(name, tmp_path, monkeypatch):
    path, given = read(name, tmp_path)
    config = load_config_from_file(path)
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == KINDS[name]
    assert config.mixed_precision == ("bf16" if name == "gpu-bf16" else "no")
    environment = prepare_simple_launcher_cmd_env(given)[1] if name == "gpu-bf16" else prepare_multi_gpu_env(given)
    for key, value in environment.items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)
    sharded = environment.get("ACCELERATE_USE_FSDP") == "true"
    assert sharded == (name == "fsdp2") and (not sharded or environment["FSDP_VERSION"] == "2")
    ImmunizeArguments(output_dir=str(tmp_path), use_cpu=True, bf16=name == "gpu-bf16")


def test_they_are_listed_and_printed(capsys):
    assert call(["launchers"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == launchers.names()
    assert call(["launchers", "fsdp2"]) == 0
    assert capsys.readouterr().out == launchers.text("fsdp2")
    assert call(["launchers", "fsdp"]) == 2
    assert 'no such launcher; expected one of ddp, fsdp2, gpu-bf16 (did you mean "fsdp2"?)' in capsys.readouterr().err
