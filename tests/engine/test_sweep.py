"""A job is plain data, runs once, and its result is kept."""

import json
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
