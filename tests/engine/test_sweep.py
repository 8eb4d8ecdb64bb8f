"""A job is plain data, runs once, and its result is kept."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from engine.toy import Toy, run_here
from ommatid.engine import sweep
from ommatid.engine.sweep import Job, Outcome, locate, run_job, run_jobs, target_of
from ommatid.errors import InputError, MissingDependency

TARGET = "engine.toy:Toy"
COSTS = ("seconds", "peak_memory")


def job(seed: int = 0, **settings) -> Job:
    return Job(TARGET, {}, {"count": 8}, {"max_epochs": 1, **settings}, seed)


@pytest.fixture
def here(monkeypatch):
    """Jobs in this process, one after the other; the list of those that ran."""
    return run_here(monkeypatch, run_job)


def numbers(outcomes: dict[str, Outcome]) -> str:
    """What was measured, without what it cost; as text, since NaN equals nothing."""
    return repr({key: {n: v for n, v in vars(out).items() if n not in COSTS} for key, out in sorted(outcomes.items())})


# -- jobs --


def test_equal_settings_have_equal_keys():
    assert job().key == job().key
    assert Job(TARGET, {"a": 1, "b": 2}).key == Job(TARGET, {"b": 2, "a": 1}).key
    different = [job(), job(seed=1), job(max_epochs=2), Job(TARGET), Job(TARGET, split="val"), Job("engine.toy:Other")]
    assert len({each.key for each in different}) == len(different)


def test_another_version_runs_again(monkeypatch):
    before = job().key
    monkeypatch.setattr(sweep, "__version__", "99.0")
    assert job().key != before


def test_classes_are_named_and_found():
    assert target_of(Toy) == TARGET
    assert locate(TARGET) is Toy
    for wrong in ("engine.toy:Nothing", "engine.nothing:Toy", "engine.toy"):
        with pytest.raises(InputError, match=f"^{wrong}: cannot be imported"):
            locate(wrong)


def test_a_job_measures_metrics_read_outs_and_costs():
    outcome = run_job(job())
    assert outcome.metrics["error"] > 0
    assert "slope" in outcome.read_outs
    assert outcome.parameters == 4
    assert outcome.seconds > 0
    assert outcome.peak_memory >= 0


def test_a_job_depends_on_its_seed_alone():
    first = run_job(job())
    torch.rand(100)
    assert run_job(job()).metrics["error"] == first.metrics["error"]
    assert run_job(job(seed=1)).metrics["error"] != first.metrics["error"]


# -- keeping --


def test_second_call_runs_nothing(tmp_path, here):
    told = []
    jobs = [job(0), job(1), job(0)]
    first = run_jobs(jobs, tmp_path, on_done=lambda job, outcome, kept: told.append((job.seed, kept)))
    assert [each.seed for each in here] == [0, 1]
    assert told == [(0, False), (1, False)]
    second = run_jobs(jobs, tmp_path, on_done=lambda job, outcome, kept: told.append((job.seed, kept)))
    assert len(here) == 2
    assert told[2:] == [(0, True), (1, True)]
    assert repr(first) == repr(second)


def test_an_interrupted_sweep_keeps_what_was_finished(tmp_path, here):
    def stop(job, outcome, kept):
        if job.seed == 1:
            raise KeyboardInterrupt

    jobs = [job(seed) for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, tmp_path, on_done=stop)
    assert [each.seed for each in here] == [0, 1]
    run_jobs(jobs, tmp_path)
    assert [each.seed for each in here] == [0, 1, 2]


def test_kept_results_are_strict_json_and_come_back_as_they_were(tmp_path, here):
    outcomes = run_jobs([job()], tmp_path)
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["job"]["seed"] == 0
    assert content["outcome"]["metrics"]["never"] is None
    assert content["outcome"]["read_outs"]["unknown"] is None
    (again,) = run_jobs([job()], tmp_path).values()
    assert again.metrics["never"] != again.metrics["never"]
    assert repr(again) == repr(outcomes[job().key])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"outcome": {}}', '{"outcome": 3}', '{"outcome": {"a": 1}}'])
def test_a_damaged_result_is_answered_in_one_sentence(tmp_path, here, content):
    path = tmp_path / f"{job().key}.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"not a result that ommatid kept .* delete the file") as caught:
        run_jobs([job()], tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert here == []


# -- what a kept result comes of --


@pytest.fixture
def made_up(monkeypatch):
    """Jobs that ran; they measure nothing."""
    return run_here(monkeypatch, lambda job: Outcome({"error": 1.0}, {}, 0.1, 1, 1))


def kept(jobs: list[Job], folder: Path) -> list[bool | None]:
    """What is said of each result."""
    told = []
    run_jobs(jobs, folder, on_done=lambda job, outcome, kept: told.append(kept))
    return told


def test_other_files_are_measured_anew(tmp_path, made_up):
    (tmp_path / "root" / "videos").mkdir(parents=True)
    train, clip = tmp_path / "root" / "train.jsonl", tmp_path / "root" / "videos" / "a.npy"
    words = tmp_path / "words.txt"
    for path in (train, clip, words):
        path.write_text("24 records")
    data = {"root": str(tmp_path / "root"), "glove": str(words), "format": "auto"}
    jobs = [Job(TARGET, {}, data), Job(TARGET, {}, data, seed=1)]
    assert kept(jobs, tmp_path / "out") == [False, False]
    assert kept(jobs, tmp_path / "out") == [True, True]

    def later() -> None:
        os.utime(clip, ns=(1, 1))

    changes = [lambda: train.write_text("17 records"), later, lambda: words.write_text("x"), clip.unlink]
    for change in changes:
        change()
        assert kept(jobs, tmp_path / "out") == [None, None]
        assert kept(jobs, tmp_path / "out") == [True, True]
    assert len(made_up) == 2 + 2 * len(changes)


def test_what_a_training_leaves_beside_the_data_changes_nothing(tmp_path, made_up):
    """An interrupted sweep finds its results again, though it wrote maps, tokens and results into the data's folder."""
    (tmp_path / "train.jsonl").write_text("24 records")
    jobs = [Job(TARGET, {}, {"root": str(tmp_path), "cache": str(tmp_path)})]
    assert kept(jobs, tmp_path / "out") == [False]
    for name in ("organ-maps", "tokens"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "map.npz").write_text("made of the data")
    assert kept(jobs, tmp_path / "out") == [True]


def test_other_code_is_measured_anew(tmp_path, made_up, monkeypatch):
    for name in ("errors.py", "field/b.py", "other/c.py", "engine/sweep.py"):
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).write_text("one = 1")
    monkeypatch.setattr(sweep, "__file__", str(tmp_path / "package/engine/sweep.py"))
    jobs = [Job("package.field.b:Toy")]
    assert kept(jobs, tmp_path / "out") == [False]
    os.utime(tmp_path / "package/errors.py", ns=(1, 1))
    assert kept(jobs, tmp_path / "out") == [True]
    for name in ("errors.py", "field/b.py", "engine/sweep.py"):
        (tmp_path / "package" / name).write_text("one = 2")
        assert kept(jobs, tmp_path / "out") == [None]
        assert kept(jobs, tmp_path / "out") == [True]
    # Fields never import each other.
    (tmp_path / "package/other/c.py").write_text("one = 2")
    assert kept(jobs, tmp_path / "out") == [True]


def test_somebody_s_own_method_is_measured_anew_when_it_changes(tmp_path, made_up, monkeypatch):
    (tmp_path / "mine.py").write_text("class Mine: pass")
    monkeypatch.syspath_prepend(tmp_path)
    jobs = [Job("mine:Mine")]
    assert kept(jobs, tmp_path / "out") == [False]
    assert kept(jobs, tmp_path / "out") == [True]
    (tmp_path / "mine.py").write_text("class Mine: changed = True")
    assert kept(jobs, tmp_path / "out") == [None]


def test_code_that_changes_meanwhile_ends_the_sweep(tmp_path, monkeypatch):
    """Later trainings would be of other code than what is kept of them says."""
    (tmp_path / "mine.py").write_text("class Mine: pass")
    monkeypatch.syspath_prepend(tmp_path)

    def change(job):
        (tmp_path / "mine.py").write_text("class Mine: changed = True")
        return Outcome({"error": 1.0}, {}, 0.1, 1, 1)

    run_here(monkeypatch, change)
    sys.modules.pop("mine", None)
    with pytest.raises(InputError, match="mine:Mine: found that its code has changed since the trainings began"):
        kept([Job("mine:Mine")], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json"))


def test_weights_that_a_method_begins_with_are_measured_anew(tmp_path, made_up):
    weights = tmp_path / "teacher.safetensors"
    weights.write_text("one")
    jobs = [Job(TARGET, {"teacher_weights": str(weights), "organ_folder": str(tmp_path)})]
    assert kept(jobs, tmp_path / "out") == [False]
    assert kept(jobs, tmp_path / "out") == [True]
    weights.write_text("another")
    assert kept(jobs, tmp_path / "out") == [None]


def test_an_infinite_measurement_is_the_same_fresh_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("ommatid.engine.fit.evaluate", lambda *_: {"error": float("inf"), "other": 1.0})
    outcome = run_job(job())
    assert repr(outcome.metrics) == "{'error': nan, 'other': 1.0}"


def test_a_result_without_a_fingerprint_is_measured_anew(tmp_path, made_up):
    assert kept([job()], tmp_path) == [False]
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    del content["fingerprint"]
    path.write_text(json.dumps(content))
    assert kept([job()], tmp_path) == [None]


# -- devices --


@pytest.mark.parametrize("settings", [{"devices": each} for each in (2, "2", -1, [0, 1])] + [{"num_nodes": 2}])
def test_a_training_of_a_sweep_has_one_device(settings):
    with pytest.raises(InputError, match=r"^trainer: found .* devices on . nodes, expected one: trainings of a sweep"):
        run_job(job(accelerator="cpu", **settings))


def test_jobs_take_the_gpus_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [sweep._gpu({}, place) for place in range(3)] == [0, 1, 0]
    assert [sweep._gpu({"accelerator": "gpu", "devices": one}, 1) for one in (1, "auto", [0])] == [1, 1, 0]
    assert sweep._gpu({"accelerator": "cpu"}, 1) is None


def test_memory_is_measured_where_the_training_was(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("set_device", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, pytest.fail)
    monkeypatch.setattr(sweep, "_resident_bytes", lambda: 100)
    monkeypatch.setattr(sweep, "_peak_bytes", lambda: 300)
    assert run_job(job(accelerator="cpu")).peak_memory == 200


def test_a_system_that_does_not_tell_its_memory(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert sweep._peak_bytes() == 0


# -- processes and clusters --


def test_processes_give_the_numbers_of_one(tmp_path):
    jobs = [job(seed) for seed in range(3)]
    alone = run_jobs(jobs, tmp_path / "one", processes=1)
    together = run_jobs(jobs, tmp_path / "two", processes=2)
    assert numbers(alone) == numbers(together)
    assert numbers(alone) == numbers({each.key: run_job(each) for each in jobs})


def test_a_refusal_in_a_process_arrives_as_its_sentence(tmp_path):
    jobs = [Job(TARGET, {"baas": True}), *(job(seed) for seed in range(2))]
    with pytest.raises(InputError, match=r"^unknown argument of Toy 'baas': did you mean 'bias'\?$"):
        run_jobs(jobs, tmp_path, processes=1)


def test_no_job_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", pytest.fail)
    assert run_jobs([], tmp_path) == {}


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster on this machine, with processes of its own."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ommatid[cluster]'")
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # The workers need the toy's module, which only pytest has put on the path.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False},
        )
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_gives_the_numbers_of_one_process(tmp_path, cluster):
    outcomes = run_jobs([job()], tmp_path, cluster=cluster)
    assert numbers(outcomes) == numbers({job().key: run_job(job())})
    assert len(list(Path(tmp_path).iterdir())) == 1
    with pytest.raises(InputError, match=r"^unknown argument of Toy 'baas': did you mean 'bias'\?$"):
        run_jobs([Job(TARGET, {"baas": True})], tmp_path, cluster=cluster)


def test_a_cluster_that_does_not_answer(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ommatid[cluster]'")

    def nobody(**_):
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(InputError, match=r"^--cluster auto: no Ray cluster answers there$"):
        run_jobs([job()], tmp_path, cluster="auto")


def test_a_cluster_without_ray_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"pip install 'ommatid\[cluster\]'"):
        run_jobs([job()], tmp_path, cluster="auto")
