"""`melhubert superb`: the recipes, their settings for s3prl's own program, the report and the submission."""

from __future__ import annotations

import argparse

from s3prl_melhubert.downstream_recipes import experiment, report, settings_file, submission
from s3prl_melhubert.downstream_recipes.phone_recognition.recipe import PhoneRecognition
from s3prl_melhubert.downstream_recipes.recipe import Recipe
from s3prl_melhubert.downstream_recipes.recipe import add_arguments as add_recipe_arguments
from s3prl_melhubert.downstream_recipes.results import METRICS, TASK_NAMES
from s3prl_melhubert.downstream_recipes.speaker_identification.recipe import SpeakerIdentification
from s3prl_melhubert.downstream_recipes.speech_recognition.recipe import SpeechRecognition

RECIPES: dict[str, Recipe] = {
    recipe.task: recipe for recipe in (PhoneRecognition(), SpeakerIdentification(), SpeechRecognition())
}
CORPORA = {
    "pr": "--librispeech LibriSpeech",
    "sid": "--voxceleb VoxCeleb1",
    "asr": "--librispeech LibriSpeech",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  melhubert superb {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    for task, recipe in RECIPES.items():
        summary = f"{TASK_NAMES[task]}: check the corpus, train, test ({METRICS[task].name})"
        example = f"{task} {CORPORA[task]} -u melhubert_local -k model.ckpt -p exp/{task}"
        command = add(task, summary, example)
        add_recipe_arguments(command, recipe)
        command.set_defaults(run_command=lambda args: experiment.run(RECIPES[args.command], args))

    command = add(
        "config",
        "write a task's settings for s3prl's own run_downstream.py and print the file's path",
        "config pr --librispeech LibriSpeech",
    )
    settings_file.add_arguments(command, RECIPES)
    command.set_defaults(run_command=lambda args: settings_file.run(args, RECIPES))

    command = add(
        "report",
        "a table and a picture of several experiments, beside published results",
        "report exp/pr exp/sid exp/asr --out report",
    )
    report.add_arguments(command)
    command.set_defaults(run_command=report.run)

    command = add(
        "submit",
        "predict.zip for SUPERB's leaderboard, after checking the predictions",
        "submit --pr exp/pr --sid exp/sid --asr exp/asr --out submission",
    )
    submission.add_arguments(command)
    command.set_defaults(run_command=submission.run)


def run(args: argparse.Namespace) -> int:
    return args.run_command(args)
