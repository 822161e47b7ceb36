"""Which of Ray's names there are, where Shoal has them, and what to do without those that Shoal does not have."""

from __future__ import annotations

__all__ = ["HINTS", "MODULES", "Source"]

Source = str | dict[str, str]
"""A module, of which all public names are meant, or names with where they are: ``module:attribute``."""

_RUN = "shoal.run"
_SETTINGS = "shoal.as_ray.settings"
_SESSION = "shoal.as_ray.session"
_UTILS = "shoal.as_ray.utils"
_CONSTANTS = "shoal.as_ray.constants"


def _from(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


_CHECKPOINT = _from("shoal.checkpoints", "Checkpoint")
_RUN_CONFIGS = {**_from(_SETTINGS, "RunConfig"), **_from("shoal.config", "CheckpointConfig", "FailureConfig")}
_TUNE_CONFIG = {**_from(_SETTINGS, "TuneConfig"), **_from("shoal.applied", "CheckApplied")}
_TUNER = _from("shoal.tuner", "Tuner")
_ERRORS = _from("shoal.errors", "TuneError")
_RUNS = _from("shoal.as_ray.running", "run")
_RUNNING = {**_ERRORS, **_RUNS, **_from(_RUN, "create_scheduler", "register_trainable")}
_REPORTERS = _from("shoal.reporters", "CLIReporter", "JupyterNotebookReporter", "ProgressReporter")
_ANALYSIS = _from("shoal.analysis", "ExperimentAnalysis")
_RESULT = _from("shoal.results", "Result")
_RESULT_GRID = _from("shoal.results", "ResultGrid")
_STOPPER = _from("shoal.stoppers", "Stopper")
_CALLBACK = _from("shoal.callbacks", "Callback")
_TRAINABLE = _from("shoal.as_ray.trainable", "Trainable")
_TRIAL = _from("shoal.callbacks", "Trial")
_REPORT = {**_from("shoal.worker.api", "report", "get_checkpoint"), **_from(_SESSION, "get_context")}
_PLACEMENT = _from("shoal.resources", "PlacementGroupFactory")
_WITH = {**_from("shoal.resources", "with_resources"), **_from("shoal.parameters", "with_parameters")}
_TRIAL_FACTS = _from(_SESSION, "get_trial_id", "get_trial_name", "get_trial_dir", "get_trial_resources")
_PBT = {
    **_from("shoal.schedulers", "PopulationBasedTraining"),
    **_from("shoal.replay", "PopulationBasedTrainingReplay"),
}
_FIFO = _from("shoal.schedulers", "FIFOScheduler", "TrialScheduler")
_SPACE = _from(
    "shoal.space",
    *("choice", "grid_search", "lograndint", "loguniform", "qlograndint", "qloguniform", "qrandint", "qrandn"),
    *("quniform", "randint", "randn", "sample_from", "uniform"),
)
_DOMAINS = {**_from("shoal.space", "Domain", "Float", "Integer", "Function"), "Categorical": "shoal.space:Choice"}
_GRID = _from("shoal.space", "grid_search")
_VARIANTS = _from("shoal.as_ray.search", "BasicVariantGenerator")
_LOGGERS = ("shoal.tune.logger", _from(_UTILS, "pretty_print"))
_DICTS = _from(_UTILS, "flatten_dict", "merge_dicts", "unflatten_dict")

MODULES: dict[str, tuple[Source, ...]] = {
    "ray": (
        _from("shoal.runtime", "is_initialized"),
        _from("shoal.objects", "ObjectRef", "get", "put"),
        _from("shoal.as_ray.machine", "available_resources", "cluster_resources", "get_gpu_ids", "init", "shutdown"),
        {"__version__": f"{_CONSTANTS}:VERSION"},
    ),
    "ray.air": (_CHECKPOINT, _RUN_CONFIGS, _RESULT),
    "ray.air.checkpoint": (_CHECKPOINT,),
    "ray.air.config": (_RUN_CONFIGS,),
    "ray.air.constants": (_CONSTANTS,),
    "ray.air.integrations": (),
    "ray.air.result": (_RESULT,),
    "ray.air.session": (_SESSION,),
    "ray.cloudpickle": (_from("cloudpickle", "CloudPickler", "Pickler", "dump", "dumps", "load", "loads"),),
    "ray.train": (_CHECKPOINT, _RUN_CONFIGS, _REPORT, _RESULT),
    "ray.tune": (
        *(_RUN_CONFIGS, _TUNE_CONFIG, _TUNER, _RUNNING, _TRAINABLE, _WITH, _PLACEMENT, _SPACE),
        *(_CHECKPOINT, _REPORT, _TRIAL_FACTS, _STOPPER, _CALLBACK, _REPORTERS, _RESULT, _RESULT_GRID, _ANALYSIS),
    ),
    "ray.tune.analysis": (_ANALYSIS,),
    "ray.tune.analysis.experiment_analysis": (_ANALYSIS,),
    "ray.tune.callback": (_CALLBACK,),
    "ray.tune.error": (_ERRORS,),
    "ray.tune.examples": (),
    "ray.tune.examples.mnist_pytorch": ("shoal.tune.examples.mnist_pytorch",),
    "ray.tune.examples.pbt_dcgan_mnist": (),
    "ray.tune.examples.pbt_dcgan_mnist.common": ("shoal.tune.examples.pbt_dcgan_mnist.common",),
    "ray.tune.examples.pbt_dcgan_mnist.pbt_dcgan_mnist_func": (
        "shoal.tune.examples.pbt_dcgan_mnist.pbt_dcgan_mnist_func",
    ),
    "ray.tune.execution": (),
    "ray.tune.execution.placement_groups": (_PLACEMENT,),
    "ray.tune.experiment": (_TRIAL,),
    "ray.tune.experiment.trial": (_TRIAL,),
    "ray.tune.integration": (),
    "ray.tune.logger": _LOGGERS,
    "ray.tune.logger.csv": (_from("shoal.loggers", "CSVLoggerCallback"),),
    "ray.tune.logger.json": (_from("shoal.loggers", "JsonLoggerCallback"),),
    "ray.tune.logger.logger": _LOGGERS,
    "ray.tune.logger.tensorboardx": (_from("shoal.loggers", "TBXLoggerCallback"),),
    "ray.tune.progress_reporter": (_REPORTERS,),
    "ray.tune.registry": (_from(_RUN, "register_trainable"), {"get_trainable_cls": f"{_RUN}:find_trainable"}),
    "ray.tune.result": (_CONSTANTS,),
    "ray.tune.result_grid": (_RESULT_GRID,),
    "ray.tune.schedulers": (_PBT, _FIFO, _from(_RUN, "create_scheduler")),
    "ray.tune.schedulers.pbt": (_PBT,),
    "ray.tune.schedulers.trial_scheduler": (_FIFO,),
    "ray.tune.search": (_GRID, _VARIANTS),
    "ray.tune.search.basic_variant": (_VARIANTS,),
    "ray.tune.search.sample": (_DOMAINS, _SPACE),
    "ray.tune.search.variant_generator": (_GRID,),
    "ray.tune.stopper": ("shoal.tune.stopper",),
    "ray.tune.stopper.experiment_plateau": (_from("shoal.stoppers", "ExperimentPlateauStopper"),),
    "ray.tune.stopper.function_stopper": (_from("shoal.stoppers", "FunctionStopper"),),
    "ray.tune.stopper.maximum_iteration": (_from("shoal.stoppers", "MaximumIterationStopper"),),
    "ray.tune.stopper.noop": (_from("shoal.stoppers", "NoopStopper"),),
    "ray.tune.stopper.stopper": (_from("shoal.stoppers", "CombinedStopper", "Stopper"),),
    "ray.tune.stopper.timeout": (_from("shoal.stoppers", "TimeoutStopper"),),
    "ray.tune.stopper.trial_plateau": (_from("shoal.stoppers", "TrialPlateauStopper"),),
    "ray.tune.trainable": (_TRAINABLE, _WITH),
    "ray.tune.trainable.trainable": (_TRAINABLE,),
    "ray.tune.trainable.util": (_WITH,),
    "ray.tune.trial": (_TRIAL,),
    "ray.tune.tune": (_RUNS,),
    "ray.tune.tune_config": (_TUNE_CONFIG,),
    "ray.tune.tuner": (_TUNER,),
    "ray.tune.utils": (_DICTS, _from(_UTILS, "validate_save_restore")),
    "ray.tune.utils.log": (_from(_UTILS, "Verbosity"),),
    "ray.tune.utils.util": (_DICTS,),
    "ray.util": (),
}
"""Every module that scripts can import, with what is in it; parents are in it, too.

Some have nothing in them: where Ray has a module that all its installations have, libraries look for modules in it
without a thought that it may not be there itself.
"""

_NO_TASKS = (
    "It runs trials, no tasks and actors: call the function itself, or use concurrent.futures. Data for all trials: "
    "ray.put and ray.get, or tune.with_parameters."
)
_NO_OTHER_SCHEDULER = (
    "To end bad trials early, give RunConfig(stop=...) a stopper, such as tune.stopper's plateau stoppers."
)
_NO_SEARCH = (
    "It samples at random and by grid: leave search_alg out, or give BasicVariantGenerator(). For max_concurrent there "
    "is TuneConfig(max_concurrent_trials=...)."
)
_NO_TRAINERS = (
    "A trial is one process: write the trainer's loop as a function train(config) that calls tune.report, and give "
    "it to tune.Tuner."
)
_NO_SYNC = "All runs on one machine, and there is nothing to sync: leave it out."
_OWN_TRACKER = (
    "Write a tune.logger.LoggerCallback (or a tune.Callback) that calls the tracker, or call the tracker in the train "
    "function."
)
_LOGGER_CALLBACKS = (
    "Derive a class from tune.logger.LoggerCallback and give it as callbacks=[...]. result.json, progress.csv and "
    "TensorBoard's files are written without any."
)
_ONE_MACHINE = "All runs on this machine, and no cluster is started: ray.cluster_resources() says what there is."
_ONE_BY_ONE = "Call tune.run(trainable, name=..., config=..., stop=...) once for each experiment."

HINTS: dict[str, str] = {
    **dict.fromkeys(("ray.remote", "ray.wait", "ray.kill", "ray.cancel", "ray.get_actor", "ray.actor"), _NO_TASKS),
    **dict.fromkeys(("ray.util.queue", "ray.util.ActorPool", "ray.util.multiprocessing"), _NO_TASKS),
    **dict.fromkeys(("ray.method", "ray.dag", "ray.workflow", "ray.util"), _NO_TASKS),
    **dict.fromkeys(("ray.nodes", "ray.state", "ray.autoscaler", "ray.cluster_utils"), _ONE_MACHINE),
    **dict.fromkeys(("ray.job_config", "ray.job_submission"), "There are no jobs to submit: run the script itself."),
    **dict.fromkeys(
        ("ray.get_runtime_context", "ray.runtime_context"),
        "In a trial, tune.get_context() says which one it is; there are no nodes, jobs and actors to ask for.",
    ),
    "ray.timeline": "The times of all reports are in result.metrics_dataframe: timestamp, time_this_iter_s.",
    "ray.exceptions": (
        "What a trial has raised is result.error (shoal.errors.TrialFailed), and tune.run raises tune.TuneError; "
        "nothing raises Ray's own errors."
    ),
    **dict.fromkeys(("ray._private", "ray.internal"), "It is of Ray's inner parts, and nothing corresponds to it."),
    "ray.rllib": "It trains what your function trains, and brings no reinforcement learning of its own.",
    "ray.data": "Load the data in the train function, or share it: tune.with_parameters(train, data=data).",
    "ray.serve": "It trains, and serves no models.",
    **dict.fromkeys(
        (
            "ray.tune.schedulers.ASHAScheduler",
            "ray.tune.schedulers.AsyncHyperBandScheduler",
            "ray.tune.schedulers.HyperBandScheduler",
            "ray.tune.schedulers.HyperBandForBOHB",
            "ray.tune.schedulers.MedianStoppingRule",
            "ray.tune.schedulers.async_hyperband",
            "ray.tune.schedulers.hyperband",
            "ray.tune.schedulers.median_stopping_rule",
        ),
        _NO_OTHER_SCHEDULER,
    ),
    **dict.fromkeys(
        ("ray.tune.schedulers.PB2", "ray.tune.schedulers.pb2"),
        "PopulationBasedTraining is the nearest: give it the ranges of hyperparam_bounds as hyperparam_mutations, for "
        "example {'lr': tune.uniform(low, high)}.",
    ),
    "ray.tune.search": _NO_SEARCH,
    **dict.fromkeys(
        [
            *(f"ray.tune.logger.{name}" for name in ("Logger", "UnifiedLogger", "DEFAULT_LOGGERS", "NoopLogger")),
            *(f"ray.tune.logger.{name}" for name in ("CSVLogger", "JsonLogger", "TBXLogger")),
            *(f"ray.tune.logger.{name}" for name in ("logger.Logger", "unified", "noop")),
            *("ray.tune.logger.csv.CSVLogger", "ray.tune.logger.json.JsonLogger"),
            *("ray.tune.logger.tensorboardx.TBXLogger", "ray.tune.DEFAULT_LOGGERS"),
        ],
        _LOGGER_CALLBACKS,
    ),
    "ray.tune.suggest.basic_variant": "Ray Tune has moved it: ray.tune.search.basic_variant.",
    "ray.tune.suggest.variant_generator": "Ray Tune has moved it: ray.tune.search.variant_generator.",
    "ray.tune.suggest": _NO_SEARCH,
    "ray.tune.create_searcher": _NO_SEARCH,
    "ray.tune.checkpoint_dir": (
        "Ray Tune has dropped it, too: save files to a folder and report it, tune.report(metrics, "
        "checkpoint=tune.Checkpoint.from_directory(folder)), and begin from tune.get_checkpoint()."
    ),
    "ray.tune.is_session_enabled": "Ray Tune has dropped it, too: tune.get_context() raises outside of a trial.",
    "ray.tune.Analysis": "Use tune.ExperimentAnalysis(folder).",
    "ray.tune.analysis.experiment_analysis.Analysis": "Use tune.ExperimentAnalysis(folder).",
    **dict.fromkeys(("ray.tune.Experiment", "ray.tune.experiment.Experiment", "ray.tune.run_experiments"), _ONE_BY_ONE),
    "ray.tune.tune.run_experiments": _ONE_BY_ONE,
    "ray.tune.function": "Give the function itself.",
    "ray.tune.register_env": "It is for RLlib, which is not part of Shoal.",
    "ray.tune.SyncConfig": _NO_SYNC,
    "ray.tune.syncer": _NO_SYNC,
    "ray.train.SyncConfig": _NO_SYNC,
    "ray.tune.sample": "Ray Tune has moved it: ray.tune.search.sample.",
    "ray.tune.ResumeConfig": "See tune.Tuner.restore(..., resume_errored=..., restart_errored=...).",
    "ray.tune.utils.wait_for_gpu": "It is not needed: leave it out.",
    "ray.tune.integration": _OWN_TRACKER,
    "ray.air.integrations": _OWN_TRACKER,
    "ray.air.ScalingConfig": "Say what a trial takes: tune.with_resources(train, {'cpu': 2, 'gpu': 1}).",
    "ray.train.ScalingConfig": "Say what a trial takes: tune.with_resources(train, {'cpu': 2, 'gpu': 1}).",
    "ray.train": _NO_TRAINERS,
}
"""What to do instead, by the beginning of a name that is not there; the first that fits."""
