"""``RunConfig`` and ``TuneConfig`` with the arguments that only Ray's have: at Ray's default they are accepted."""

from __future__ import annotations

from typing import Any

from .. import config
from ..reporters import check_reporter
from ..run import check_absent, create_scheduler, storage_of
from .search import settle_search

__all__ = ["RunConfig", "TuneConfig"]

_RUN = ("name", "storage_path", "stop", "checkpoint_config", "failure_config", "callbacks", "verbose", "log_to_file")
_TUNE = ("metric", "mode", "scheduler", "num_samples", "max_concurrent_trials", "time_budget_s", "reuse_actors")


class RunConfig(config.RunConfig):
    """See :class:`shoal.tune.RunConfig`.

    Args:
        name, storage_path, failure_config, checkpoint_config, stop, callbacks: as there.
        verbose, log_to_file: as there; None, as any argument left out, is Shoal's default.
        local_dir: the older name of ``storage_path``.
        progress_reporter: accepted without effect; see :class:`shoal.tune.CLIReporter`.
        storage_filesystem, sync_config: only None.
    """

    def __init__(
        self,
        name: str | None = None,
        storage_path: Any = None,
        storage_filesystem: Any = None,
        failure_config: Any = None,
        checkpoint_config: Any = None,
        sync_config: Any = None,
        verbose: Any = None,
        stop: Any = None,
        callbacks: Any = None,
        progress_reporter: Any = None,
        log_to_file: Any = None,
        local_dir: Any = None,
        **more: Any,
    ) -> None:
        check_absent("RunConfig", {"storage_filesystem": storage_filesystem, "sync_config": sync_config}, _RUN)
        check_reporter(progress_reporter, "RunConfig")
        for key, value in (("verbose", verbose), ("log_to_file", log_to_file)):
            if value is not None:
                more[key] = int(value) if key == "verbose" and isinstance(value, bool) else value
        super().__init__(
            name=name,
            storage_path=storage_of("RunConfig", storage_path, local_dir),
            failure_config=failure_config,
            checkpoint_config=checkpoint_config,
            stop=stop,
            callbacks=callbacks,
            **more,
        )


class TuneConfig(config.TuneConfig):
    """See :class:`shoal.tune.TuneConfig`.

    Args:
        metric, mode, num_samples, time_budget_s, reuse_actors: as there.
        scheduler: a scheduler, or a name that :func:`shoal.tune.create_scheduler` knows.
        max_concurrent_trials: as there; 0, too, is no limit.
        search_alg: only None or a ``BasicVariantGenerator``, whose ``max_concurrent`` and ``random_state`` count.
        trial_name_creator, trial_dirname_creator: only None.
        chdir_to_trial_dir: without effect; see :func:`shoal.as_ray.install` for the folder that members work in.
        seed: as there; only Shoal's has it.
    """

    def __init__(
        self,
        metric: str | None = None,
        mode: str | None = None,
        search_alg: Any = None,
        scheduler: Any = None,
        num_samples: int = 1,
        max_concurrent_trials: int | None = None,
        time_budget_s: Any = None,
        reuse_actors: bool | None = None,
        trial_name_creator: Any = None,
        trial_dirname_creator: Any = None,
        chdir_to_trial_dir: Any = None,
        seed: int | None = None,
        **more: Any,
    ) -> None:
        search_alg, max_concurrent_trials, seed = settle_search("TuneConfig", search_alg, max_concurrent_trials, seed)
        absent = {
            "search_alg": search_alg,
            "trial_name_creator": trial_name_creator,
            "trial_dirname_creator": trial_dirname_creator,
            "chdir_to_trial_dir": chdir_to_trial_dir,
        }
        check_absent("TuneConfig", absent, _TUNE)
        super().__init__(
            metric=metric,
            mode=mode,
            scheduler=create_scheduler(scheduler) if isinstance(scheduler, str) else scheduler,
            num_samples=num_samples,
            max_concurrent_trials=max_concurrent_trials or None,
            time_budget_s=time_budget_s,
            reuse_actors=reuse_actors,
            seed=seed,
            **more,
        )
