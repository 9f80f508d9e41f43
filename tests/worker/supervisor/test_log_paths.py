"""What its user may read of a child's log."""

from pathlib import Path

from worker.supervisor.logs import read_tail, relative_paths


def test_a_short_log_is_kept_whole_and_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"Loading:  50%\rLoading: 100%\n\x1b[31mred\x07 \xff\n")
    assert read_tail(path, 1000) == "Loading:  50%\nLoading: 100%\n[31mred \N{REPLACEMENT CHARACTER}\n"


def test_of_a_long_log_the_end_is_kept_from_a_line_on_and_it_is_said_where(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("".join(f"line {number:04d}\n" for number in range(1000)))
    assert read_tail(path, 25) == "[9980 bytes before this are not kept]\nline 0998\nline 0999\n"


def test_of_one_endless_line_the_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("x" * 100)
    assert read_tail(path, 10) == f"[90 bytes before this are not kept]\n{'x' * 10}"


def test_paths_of_the_machine_are_not_told() -> None:
    told = (
        'File "/srv/run 7/base/config.json", line 3\n'
        'File "/opt/venv/lib/site-packages/torch/nn/linear.py", line 9\n'
        "no room in /srv/run 7: PATH=/usr/local/bin:/usr/bin, file:///home/me/x.py, /srv/run 77/y\n"
    )
    assert relative_paths(told, [Path("/srv/run 7"), Path("/opt/venv/lib/site-packages")]) == (
        'File "base/config.json", line 3\n'
        'File "torch/nn/linear.py", line 9\n'
        "no room in .: PATH=…/bin:…/bin, file://…/x.py, …/run 77/y\n"
    )


def test_what_only_looks_like_a_path_stays() -> None:
    told = "loss 1/2, and/or, <turn>hi</turn>, https://host.example/v1/files, api/spec/recipe.py, ./a/b, step 3/60\n"
    assert relative_paths(told, []) == told
