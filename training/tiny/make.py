"""A small real LLaVA that is made in minutes: it sees, but leans on language, as large ones do.

Loads no torch by itself.

`make_tiny` pretrains it on an MVC folder's train split in two stages: the vision tower from
truthful labels; then, with the tower frozen, projector and language model on questions and answers
of which a stated fraction is replaced by what a fixed prior favours (`prior`). Where the prior
misleads, the model answers with the prior although its features tell the truth: what S-VCO is to
mend.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.core.progress import Progress
from pipeline.core.recipe import fingerprint
from pipeline.core.schema import read_manifest, shard_paths
from pipeline.core.storage import cache_dir, sha256_file, write_json
from training.tiny.config import VERSION, TinySection

PRIOR_FILE = "prior.json"  # written last: a folder that has it is complete


def make_tiny(data: Path, section: TinySection, progress: bool = True) -> Path:
    """The Hugging Face folder of a tiny LLaVA pretrained on an MVC folder's train split.

    Made once: the folder lies in the cache, named by the section and the data's hashes. Beside the
    model it holds prior.json, the answers that the model was taught to favour.

    Raises:
        MvcError: Not an MVC folder.
    """
    read_manifest(data)
    hashes = [sha256_file(path) for path in shard_paths(data, "train")]
    folder = cache_dir() / "tiny" / fingerprint("tiny", VERSION, section, hashes)
    if (folder / PRIOR_FILE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _pretrain(Path(data), section, made, progress)
        made.chmod(0o755)
        try:
            os.replace(made, folder)
        except OSError:
            # Another process has made it meanwhile; what both made is the same.
            if not (folder / PRIOR_FILE).is_file():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _pretrain(data: Path, section: TinySection, folder: Path, progress: bool) -> None:
    import torch

    from training.models.vlm import save_vlm
    from training.tiny.data import read_training_set
    from training.tiny.language_stage import features_of_copies, learn_to_answer
    from training.tiny.model import make_untrained
    from training.tiny.prior import make_prior
    from training.tiny.vision_stage import learn_to_see

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(section.seed)
        material = read_training_set(data, section.image_px, section.max_pairs)
        prior = make_prior(
            [question for question in material.questions for _ in range(2)],
            [answer for pair in material.answers for answer in pair],
            skew=section.prior_skew,
            seed=section.seed,
        )
        vlm = make_untrained(material.texts(), section)
        vlm.model.train()
        with _shown("tiny LLaVA 1/3, eyes", section.num_eye_images, "images", progress) as advance:
            learn_to_see(vlm.model, material, section, advance)
        num_looks = section.num_looks * len(material.pixels_I3SS)
        with _shown("tiny LLaVA 2/3, look", num_looks, "images", progress) as advance:
            features_CINV = features_of_copies(vlm.model, material, section, advance)
        with _shown("tiny LLaVA 3/3, language", section.num_texts, "texts", progress) as advance:
            learn_to_answer(vlm, material, features_CINV, prior, section, advance)
        vlm.model.eval()
    save_vlm(vlm, folder)
    write_json(folder / PRIOR_FILE, prior)


@contextlib.contextmanager
def _shown(
    title: str, total: int, unit: str, progress: bool
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """What a stage reports to: a progress bar, or nothing."""
    if not progress:
        yield lambda _num, _facts: None
        return
    with Progress(title, total, unit) as bar:
        yield lambda num, facts: bar.advance(num, **facts)
