# The guide's replay of the MNIST example, as its reader types it below guide_mnist.py.
import glob

from shoal import tune
from shoal.tune.schedulers import PopulationBasedTrainingReplay

# Any policy of the experiment above.
sample_pbt_trial_log = glob.glob(
    os.path.expanduser("/tmp/ray_results/pbt_test/pbt_policy*.txt")
)[0]
replay = PopulationBasedTrainingReplay(sample_pbt_trial_log)

tuner = tune.Tuner(
    train_convnet,
    tune_config=tune.TuneConfig(scheduler=replay),
    run_config=tune.RunConfig(stop={"training_iteration": 50}),
)
results_grid = tuner.fit()
