"""Healing: what is left of a pruned model is trained for a while to give what its parent gives."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "card": ["list_qualities"],
        "curves": ["build_curves"],
        "devices": ["check_installed"],
        "local_trainer": ["LocalTrainer"],
        "outputs": ["find_output_loss"],
        "student": ["TrainingData", "Student", "choose_training_data"],
        "ray_trainer": ["RayTrainer"],
        "recipe": ["Recipe"],
        "record": ["Healed"],
        "state_files": ["StateFiles"],
        "tournament": ["Standing", "Tournament", "Trainer"],
        "trainable": ["NO_ADAPTERS"],
        "tournament_record": ["TournamentRecord"],
    },
)
