"""Any ComfyUI workflow, drawn by a running ComfyUI: other methods, as people use them.

Each KSampler gets the case's prompt as its positive text and the case's seed, so that it starts
from the noise of all other methods (noise.py) where its latent is empty and of the same size; each
LoadImage gets the reference. All else is the workflow's: models, size, steps, negative prompt.
"""

from __future__ import annotations

import copy
import hashlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from torch import Tensor

from animesketchnet_core.contact_sheet import to_image, to_tensor
from comfyui_server import ComfyUIClient, ComfyUIError
from comfyui_workflow import nodes_of, read_workflow, set_inputs, set_prompt
from training.settings import ConfigError

from ..cases import Case
from ..noise import noise_seed

SECONDS = 3600.0  # that one picture may take: a large model on a processor


class ComfyUIMethod:
    """Draws by a workflow in API form.

    Attributes:
        recipe: the workflow's SHA-256. What its file names mean to the server is not in it: who
            puts another model under an old name draws into another folder.
    """

    def __init__(self, workflow: Path, address: str = "http://127.0.0.1:8188") -> None:
        """Reads and tries the workflow; the server is asked only when there is something to draw.

        Raises:
            WorkflowError: it is no workflow in API form, or lacks a KSampler with a prompt, a
                LoadImage or a SaveImage.
            ConfigError: the address is none.
        """
        self._workflow = read_workflow(workflow)
        for kind in ("LoadImage", "SaveImage"):
            nodes_of(self._workflow, kind)
        set_prompt(copy.deepcopy(self._workflow), "")
        self._client = _client(address)
        self.recipe = f"comfyui 1, {hashlib.sha256(workflow.read_bytes()).hexdigest()}"

    def draw(self, cases: Sequence[Case]) -> list[Tensor]:
        """Draws one picture for each case, [h, w, 3] float32 in [0, 1] on the CPU.

        Raises:
            ComfyUIError: no server answers, it refuses the workflow, a node fails (in its own
                words), or it saves none or several pictures.
            DataError: a reference cannot be read.
            ValueError: a pair has none.
        """
        return [self._picture(case) for case in cases]

    def _picture(self, case: Case) -> Tensor:
        workflow = copy.deepcopy(self._workflow)
        set_prompt(workflow, case.pair.prompt)
        set_inputs(workflow, "KSampler", "seed", noise_seed(case))
        reference = to_image(case.pair.reference_picture()[0])
        contents = self._run(workflow, reference, f"{case.pair.id}.png")
        if len(contents) != 1:
            raise ComfyUIError(
                f"The workflow saved {len(contents)} pictures for {case.id}, needed is one: use a "
                "batch size of 1 and one SaveImage node."
            )
        with Image.open(io.BytesIO(contents[0])) as picture:
            return to_tensor(picture.convert("RGB"))

    def _run(self, workflow: dict[str, Any], reference: Image.Image, name: str) -> list[bytes]:
        """Has the server draw; returns the files that it saved."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, name)
                reference.save(file)  # as all methods see it: on white, which LoadImage leaves out
                set_inputs(workflow, "LoadImage", "image", self._client.upload_image(file))
            entry = self._client.wait(self._client.submit(workflow), SECONDS)
            return list(self._client.images(entry).values())
        except OSError as error:
            raise ComfyUIError(
                f"ComfyUI at {self._client.url} gives no answer ({error}). Start it, or set "
                "address to where it runs."
            ) from error


def _client(address: str) -> ComfyUIClient:
    """Makes a client of an address such as http://127.0.0.1:8188."""
    try:
        parts = urlsplit(address)
        if parts.scheme == "http" and parts.hostname and parts.path in ("", "/"):
            return ComfyUIClient(parts.port or 80, parts.hostname)
    except ValueError:  # a port that is no number
        pass
    raise ConfigError(f"address is {address!r}; expected one such as http://127.0.0.1:8188.")
