"""What the README says of Shoal in its comparison is tested, and here stands where."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

CLAIMS = {
    "before the first step": [
        "faults/test_processes.py::test_a_run_survives_the_death_of_the_parent_of_its_members",
        "end_to_end/test_ways_to_run.py::test_a_script_runs_as_it_stands",
    ],
    "more members than CPUs": [
        "../src/shoal/testing/contracts/runs.py::test_more_members_than_slots_train_in_turn_and_lose_nothing_without_checkpoints",
    ],
    "an exploit": [
        "../src/shoal/testing/contracts/runs.py::test_an_exploit_enters_the_function_anew_in_the_same_process_with_the_donors_state",
    ],
    "results": [
        "end_to_end/test_ray_tune_defects.py::test_2_no_row_of_the_results_is_lost_around_exploits",
    ],
    "a donor's checkpoint": [
        "end_to_end/test_ray_tune_defects.py::test_3_a_donors_checkpoint_is_never_deleted_before_it_is_copied",
    ],
    "a checkpoint and its score": [
        "unit/test_pbt.py::test_the_donor_hands_over_checkpoint_and_config_of_the_same_step",
        "unit/test_pbt.py::test_a_donor_counts_with_the_score_of_its_checkpoint_not_of_its_last_report",
    ],
    "mutated values": [
        "unit/test_explore.py::test_values_stay_inside_the_bounds_unless_that_is_turned_off",
        "unit/test_explore.py::test_integers_move_both_ways_and_stay_integers",
    ],
    "NaN scores": [
        "unit/test_pbt.py::test_a_score_that_is_not_finite_ranks_last_and_is_never_a_donor",
    ],
    "a misspelled mutation key": [
        "unit/test_pbt.py::test_a_misspelled_mutation_names_the_key_that_was_meant",
    ],
    "`synch=True`, seeded": [
        "../src/shoal/testing/contracts/runs.py::test_the_seeded_synchronous_lineage_is_the_same_on_any_number_of_slots",
    ],
    "a replay of a function": [
        "end_to_end/test_replay.py::test_a_replay_of_a_result_has_the_originals_configs_at_each_step_and_its_final_score",
        "end_to_end/test_replay.py::test_a_policy_file_replays_to_the_end",
    ],
    "`kill -9`, then restore": [
        "end_to_end/test_restore.py::"
        "test_a_run_that_is_killed_interrupted_and_killed_has_the_lineage_of_one_that_is_not",
    ],
    "a step that is trained again": [
        "../src/shoal/testing/contracts/runs.py::test_a_failed_member_is_launched_again_from_its_last_checkpoint",
    ],
    "a mutated learning rate, after the donor's optimizer is loaded": [
        "end_to_end/test_applied.py::"
        "test_a_function_that_keeps_the_donors_learning_rate_is_told_so_once_in_the_terminal",
        "end_to_end/test_applied.py::test_strict_makes_it_the_trials_error_at_its_report",
    ],
    "a member that fails for good": [
        "unit/test_failures.py::test_a_member_that_fails_for_good_copies_another_and_the_population_keeps_its_size",
        "faults/test_hanging.py::test_one_that_hangs_at_its_first_report_again_and_again_is_replaced_where_pbt_is_on",
    ],
    "a node that dies": [
        "cluster/test_nodes.py::test_nodes_that_die_and_join_change_nothing_of_what_a_synchronous_run_decides",
        "simulation/test_nodes.py::"
        "test_a_seeded_synchronous_run_is_the_same_to_the_last_bit_whatever_nodes_come_and_go",
    ],
    "results in a bucket": [
        "unit/test_storage_rounds.py::test_every_moment_shows_a_state_with_all_its_checkpoints",
        "end_to_end/test_storage_restore.py::test_a_driver_that_is_killed_at_any_moment_goes_on_on_a_fresh_machine",
    ],
    "a checkpoint whose files have changed": [
        "unit/test_failures.py::test_a_member_goes_on_from_the_checkpoint_before_a_damaged_one",
    ],
    "donors of another architecture": [
        "unit/test_failures.py::test_a_donor_whose_fixed_keys_differ_is_never_copied",
    ],
    "who descends from whom": [
        "unit/test_lineage.py::test_results_of_simulated_experiments_are_what_their_lineage_and_schedule_say",
        "unit/test_plots_data.py::test_a_branch_begins_where_its_donors_weights_were",
        "unit/test_plots_data.py::test_the_ancestry_is_that_of_the_results",
    ],
    "whether PBT was worth it": [
        "unit/test_card.py::test_copying_that_pays_is_said_with_its_numbers",
        "unit/test_card.py::test_copying_that_does_not_pay_is_said_and_what_can_be_done",
        "unit/test_card.py::test_what_pbt_gained_is_told_with_its_chance_and_on_the_same_number_of_members",
    ],
}


def test_each_row_of_the_comparison_names_tests_that_are_there() -> None:
    chapter = (ROOT / "README.md").read_text().partition("## How it compares")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in chapter.splitlines() if line.startswith("|")]
    assert rows[2:] == list(CLAIMS), "a row without a test, or a test without a row"
    for claim, tests in CLAIMS.items():
        for test in tests:
            path, _, name = test.partition("::")
            assert re.search(rf"^ *def {name}\(", (ROOT / "tests" / path).read_text(), re.M), (claim, test)
