"""The device, this project's models as contestants and the timing rounds, shared by all sections."""

import gc
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conf.compose import compose_values
from conf.resolve import resolve
from experiments.benchmark.timing import Outcome, Run, Spread, compare, timed_loop
from models.compute import flops_per_token, flush_denormals, matmul_rate, matmul_size
from models.language_model import LanguageModel
from train import build_model

if TYPE_CHECKING:
    from conf.schema import Config
    from experiments.benchmark.settings import Rounds

CLIP = 1.0  # largest norm of the gradient, in every loop


@dataclass(frozen=True)
class Workbench:
    """The device and the settings. All contestants run in bf16 autocast on a GPU and in float32 on a CPU."""

    settings: "Rounds"
    device: torch.device
    vocabulary: int
    ceiling: float  # FLOP/s of a matrix multiplication in the training precision

    @classmethod
    def set_up(cls, settings: "Rounds") -> "Workbench":
        """Find the device, open (or tokenise) the corpus and measure the ceiling."""
        from data.corpus import prepare

        flush_denormals()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch._dynamo.config.recompile_limit = 256  # many models share the code that is compiled, each for itself
        vocabulary = prepare(settings.data, Path(settings.cache)).vocabulary
        return cls(settings, device, vocabulary, matmul_rate(device, training_dtype(device)))

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor()

    @property
    def label(self) -> str:
        """A folder name for the device: amd-epyc-avx2."""
        name = self.name if self.device.type == "cuda" else f"{self.name} {torch.backends.cpu.get_cpu_capability()}"
        return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")

    @property
    def precision(self) -> str:
        return "bf16 autocast" if self.device.type == "cuda" else "float32"

    @property
    def compiled(self) -> bool:
        """Whether trained models are compiled: as set, else on a GPU."""
        compiled = self.settings.compile
        return self.device.type == "cuda" if compiled is None else compiled

    def sequences(self, window: int) -> int:
        """The batch size at which a step has about the `tokens` of the settings; at least 1."""
        default = 2**16 if self.device.type == "cuda" else 2**11
        return max(1, (self.settings.tokens or default) // window)

    def config(self, model: str, position: str, window: int, *more: str) -> "Config":
        """The configuration of train.py at this model, scheme and window, with further overrides."""
        overrides = [f"model={model}", f"position={position}", f"window={window}", f"batch={self.sequences(window)}"]
        overrides += [f"trainer={'gpu' if self.device.type == 'cuda' else 'cpu'}", "trainer.progress=false"]
        overrides.append(f"trainer.compile={self.compiled}")
        values = compose_values("config", [*overrides, *more, "logger=none", "name=benchmark"])
        data = self.settings.data.model_dump(mode="json")
        return resolve({**values, "data": data, "cache": self.settings.cache}, overrides)

    def module(self, config: "Config") -> LanguageModel:
        """The LanguageModel train.py would train, on the device."""
        gpt, width = build_model(config), torch.ones(self.vocabulary)
        return LanguageModel(gpt, config.optimizer, config.steps, width, {}, config.seen, config.seed).to(self.device)

    def tokens(self, batch: int, length: int) -> Tensor:
        """Random tokens (B, length), the same every time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.vocabulary, (batch, length), generator=generator).to(self.device)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def training_loop(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer,
        window: int,
        compiled: bool | None = None,
        read_loss: bool = False,
    ) -> Run:
        """A bare training loop: forward, backward, clipping and optimizer step, on batches already on the device.

        Args:
            loss: the loss of inputs and targets, (B, T) each.
            compiled: whether model and loss are compiled; None: as the settings say.
            read_loss: wait for the value of the loss in every step.
        """
        if self.compiled if compiled is None else compiled:
            loss = torch.compile(loss)
        batches = cycle(self.tokens(4 * self.sequences(window), window + 1).chunk(4))
        parameters = list(model.parameters())

        def step() -> None:
            batch = next(batches)
            with self.autocast():
                value = loss(batch[:, :-1], batch[:, 1:])
            value.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad()
            if read_loss:
                float(value.detach())

        return timed_loop(step, self.device, before=1)

    def lab_loop(self, config: "Config") -> Run:
        """This project's model and optimizer in the bare training loop."""
        module = self.module(config)
        gpt, optimizer = module.gpt, module.configure_optimizers()["optimizer"]
        return self.training_loop(
            gpt, lambda inputs, targets: gpt(inputs, targets=targets)[0], optimizer, config.window
        )

    def mfu(self, config: "Config", outcome: Outcome, tokens: int, length: int, reading: bool = False) -> Spread:
        """Model FLOPs utilisation: the share of the ceiling reached by steps on `tokens` tokens in texts of `length`.

        Operations are counted as in models/compute.py, without what the scheme adds. A forward pass (`reading`) counts
        a third of a training step.
        """
        operations = tokens * flops_per_token(self.module(config).gpt, length) / (3 if reading else 1)
        return outcome.rate(operations / self.ceiling)

    def matmul(self) -> Run:
        """The square matrix multiplication of the ceiling as a contestant: the device's rate in that round."""
        size = matmul_size(self.device)
        a, b = (torch.randn(size, size, device=self.device).to(training_dtype(self.device)) for _ in range(2))
        return timed_loop(lambda: a @ b, self.device, before=1)

    def forward_loop(self, model: nn.Module, logits: Callable[[Tensor], Tensor], tokens: Tensor, before: int) -> Run:
        """A plain forward pass of tokens (B, T) to logits under inference mode, after `before` uncounted ones."""
        model.eval()

        @torch.inference_mode()
        def step() -> None:
            with self.autocast():
                logits(tokens)

        return timed_loop(step, self.device, before)

    def compare(self, title: str, builders: dict[Any, Callable[[], Run]], **limits) -> dict[Any, Outcome]:
        """Time these contestants in alternating rounds; `limits` replaces those of the settings."""
        defaults = {key: getattr(self.settings, key) for key in ("repeats", "seconds", "budget")}
        try:
            return compare(title, builders, self.device, **defaults | limits)
        finally:
            torch._dynamo.reset()  # code compiled for this comparison is not used again
            gc.collect()  # its models are in reference cycles


def training_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def processor() -> str:
    """The name of the CPU, if the system gives one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
