"""How much memory a run takes on each device, from shapes alone.

Every function gives bytes. Symbols: P parameters, T trained ones, b bytes of a stored number, c of
a computed one, B rows of a micro-batch, S = prompt + completion tokens, h hidden width, a query
heads of width d, k key-value heads, i width of the feed-forward layer, V vocabulary. The numbers
hold for decoder models of the Llama kind (Mistral, Qwen, Gemma and the like) with PyTorch's fused
attention, and are close for others. What the device's libraries keep for themselves (a CUDA
context takes about half a GiB) and fragmentation are not in them. Rollouts that share their prompt
in the update (`dopr.policy.shared_prefixes`) take less than is said here, where rows are counted.
"""

from dataclasses import dataclass, replace

from dopr.core.configuration import at_least
from dopr.core.errors import UserError, unknown_name

GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of state per trained parameter; None is two numbers as wide as the parameter.
OPTIMIZERS: dict[str, int | None] = {"adamw": None, "adamw_8bit": 2, "adafactor": 0, "sgd": 0}
VLLM = ("none", "colocate", "server")
_TILE_TOKENS, _TILE_WIDTH = 4096, 32768  # TRL's tile of logits
_TORCH_TILES = 7  # copies of a tile where TRL's kernel for GPUs does not run
_ADAPTER_BYTES = 4  # peft keeps adapters in float32


@dataclass(frozen=True)
class ModelShape:
    """What the estimate needs to know of a model.

    Attributes:
        name: as the user calls it.
        parameters: numbers in it, shared ones counted once.
        layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary: its sizes; with
            experts, `intermediate` is the width that one token passes through.
        linears: last part of the name, inputs and outputs of every linear map, for LoRA.
    """

    name: str
    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    linears: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class MemorySettings:
    """What a run looks like to the memory of one device.

    Args:
        num_generations: rollouts of a prompt.
        prompts_per_step: prompts rolled out in a step, on this device.
        batch_size: B, rollouts in a forward pass of the update; None takes all, 128 at most.
        prompt_length, completion_length: tokens, at most.
        dtype: of the weights.
        mixed: compute in bfloat16 beside float32 weights (autocast).
        checkpointing: keep only the inputs of layers for the backward pass.
        lora: rank of the adapters, or None for full training.
        lora_targets: last parts of the names of the linear maps that get one, or `all-linear`.
        optimizer: `adamw`, `adamw_8bit`, `adafactor` or `sgd`.
        reference: a second copy of the weights is kept (`beta` above 0 without LoRA).
        vllm: `none`, `colocate` or `server`.
        vllm_share: of the device's memory that a colocated vLLM takes.
        device: `cuda` or another; TRL's kernel for log-probabilities needs the former.
    """

    num_generations: int = 8
    prompts_per_step: int = 4
    batch_size: int | None = None
    prompt_length: int = 512
    completion_length: int = 256
    dtype: str = "float32"
    mixed: bool = False
    checkpointing: bool = False
    lora: int | None = None
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    optimizer: str = "adamw"
    reference: bool = False
    vllm: str = "none"
    vllm_share: float = 0.3
    device: str = "cuda"

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: naming the setting and its limits.
        """
        at_least(self, 1, "num_generations", "prompts_per_step", "batch_size", "lora")
        at_least(self, 1, "prompt_length", "completion_length")
        for name, known in (("dtype", BYTES), ("optimizer", OPTIMIZERS), ("vllm", VLLM)):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        if not 0 < self.vllm_share < 1:
            raise UserError(f"vllm_share is {self.vllm_share:g}; it must lie between 0 and 1")

    @property
    def rollouts(self) -> int:
        """Rollouts that are generated at once."""
        return self.num_generations * self.prompts_per_step

    @property
    def rows(self) -> int:
        """B, rollouts in a forward pass of the update."""
        return min(self.batch_size or 128, self.rollouts)

    @property
    def tokens(self) -> int:
        """S, of a rollout with its prompt."""
        return self.prompt_length + self.completion_length

    @property
    def stored(self) -> int:
        """b, bytes of a weight."""
        return BYTES[self.dtype]

    @property
    def autocast(self) -> bool:
        """Whether float32 weights are computed with in half precision."""
        return self.mixed and self.dtype == "float32"

    @property
    def computed(self) -> int:
        """c, bytes of an activation."""
        return 2 if self.autocast else self.stored


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device, by what they are for.

    Attributes:
        weights, optimizer, reference: there all the time; adapters count as weights.
        gradients, copies, logits, activations: during the update.
        activations_kept, activations_checkpointed: what `activations` is without and with
            gradient checkpointing.
        logits_whole: what the logits of a micro-batch would take if they were not computed in
            tiles; for comparison, no part of any sum.
        kv_cache, sampling: while generating.
        vllm: set aside by a colocated vLLM, weights and cache included.
    """

    weights: int
    optimizer: int
    reference: int
    gradients: int
    copies: int
    logits: int
    logits_whole: int
    activations: int
    activations_kept: int
    activations_checkpointed: int
    kv_cache: int
    sampling: int
    vllm: int

    @property
    def always(self) -> int:
        """Bytes held in both phases."""
        return self.weights + self.optimizer + self.reference + self.vllm

    @property
    def update(self) -> int:
        """The most during the update."""
        work = self.gradients + self.copies + self.logits + self.activations
        return self.always + work

    @property
    def generation(self) -> int:
        """The most while generating."""
        return self.always + self.kv_cache + self.sampling

    @property
    def peak(self) -> int:
        """Bytes of the larger of the two phases."""
        return max(self.update, self.generation)


def estimate(shape: ModelShape, settings: MemorySettings, device_bytes: int = 0) -> Estimate:
    """Memory of a run on one device.

    Args:
        shape: of the model.
        settings: of the run.
        device_bytes: memory of the device, of which a colocated vLLM takes its share.
    """
    kept = activations(shape, settings, checkpointing=False)
    spared = activations(shape, settings, checkpointing=True)
    trained, width = trained_parameters(shape, settings)
    adapters = trained * width if settings.lora else 0
    own_cache = settings.vllm == "none"
    return Estimate(
        weights=shape.parameters * settings.stored + adapters,
        optimizer=optimizer_states(trained, width, settings.optimizer),
        reference=shape.parameters * settings.stored if settings.reference else 0,
        gradients=trained * width,
        # Autocast keeps the copies it makes of weights that are trained.
        copies=2 * trained if settings.autocast else 0,
        logits=logits(shape, settings),
        logits_whole=settings.rows * settings.tokens * shape.vocabulary * settings.computed,
        activations=spared if settings.checkpointing else kept,
        activations_kept=kept,
        activations_checkpointed=spared,
        kv_cache=kv_cache(shape, settings) if own_cache else 0,
        sampling=sampling(shape, settings) if own_cache else 0,
        vllm=round(settings.vllm_share * device_bytes) if settings.vllm == "colocate" else 0,
    )


def trained_parameters(shape: ModelShape, settings: MemorySettings) -> tuple[int, int]:
    """T and the bytes of each: all parameters, or with LoRA rank x (inputs + outputs) a map."""
    if settings.lora is None:
        return shape.parameters, settings.stored
    everywhere = "all-linear" in settings.lora_targets
    sizes = [
        inputs + outputs
        for name, inputs, outputs in shape.linears
        if name in settings.lora_targets or (everywhere and name != "lm_head")
    ]
    return settings.lora * sum(sizes), _ADAPTER_BYTES


def optimizer_states(trained: int, width: int, optimizer: str) -> int:
    """T x bytes of state: AdamW keeps two numbers as wide as the parameter, 2 T b."""
    state = OPTIMIZERS[optimizer]
    return trained * (2 * width if state is None else state)


def kv_cache(shape: ModelShape, settings: MemorySettings) -> int:
    """Keys and values of all rollouts at their full length: rollouts x S x 2 x layers x k x d x b.

    transformers' own cache copies one layer while it grows; that layer is counted twice.
    """
    layer = settings.rollouts * settings.tokens * 2 * shape.kv_heads * shape.head_dim
    return (shape.layers + 1) * layer * settings.stored


def sampling(shape: ModelShape, settings: MemorySettings) -> int:
    """Logits of the next token of every rollout, the scores made of them in float32, their softmax,
    and its running sum in float64 (`dopr.policy.decoding`).
    """
    return settings.rollouts * shape.vocabulary * (settings.stored + 4 + 4 + 8)


def logits(shape: ModelShape, settings: MemorySettings) -> int:
    """What TRL 1.16 needs to turn hidden states into log-probabilities and back.

    It never holds B x S x V logits, only a tile of 4096 tokens x 32768 words (c bytes each). Beside
    it are the hidden states that go in (c) and their gradient (float32), N x h each, with N = B x
    completion tokens on a GPU and B x S elsewhere; and the gradient of the output matrix, V x h in
    float32, where it is trained. Without a GPU the tile is worked on by plain tensor operations,
    which hold about seven float32 copies of its used part.
    """
    on_gpu = settings.device == "cuda"
    positions = settings.rows * (settings.completion_length if on_gpu else settings.tokens)
    tokens = min(positions, _TILE_TOKENS)
    tile = tokens * _TILE_WIDTH * settings.computed
    if not on_gpu:
        width = min(shape.vocabulary, _TILE_WIDTH)
        tile = tokens * width * (settings.computed + 4 * _TORCH_TILES)
    hidden = positions * shape.hidden * (settings.computed + 4)
    matrix = 0 if settings.lora else 4 * shape.vocabulary * shape.hidden
    return tile + hidden + matrix


def activations(shape: ModelShape, settings: MemorySettings, checkpointing: bool) -> int:
    """What the backward pass needs of the forward pass.

    With checkpointing: the input of every layer (B x S x h), and one layer in full, the one that
    is being computed again. Without: every layer in full.
    """
    stream = 4 if settings.autocast else settings.computed
    inputs = settings.rows * settings.tokens * shape.hidden * stream
    layer = layer_activations(shape, settings)
    ends = inputs + settings.rows * settings.tokens * shape.hidden * 4  # the last norm's
    if checkpointing:
        return shape.layers * inputs + layer + ends
    return shape.layers * layer + ends


def layer_activations(shape: ModelShape, settings: MemorySettings) -> int:
    """What autograd keeps of one layer.

    A token: two norms keep their input in float32 and what they made of it, 2 h (4 + s) + 8, with
    s = c, or 4 under autocast; the linear maps keep their inputs, 2 h c (5 h c under autocast,
    which casts for each of them); attention keeps queries, keys and values, repeated to a heads,
    and its output, 4 a d c, and 4 a for the softmax; the feed-forward layer keeps four of its
    width, 4 i c, and each token's part of a padded batch's mask is S c.
    """
    wide, c = settings.autocast, settings.computed
    norms = 2 * shape.hidden * (4 + (4 if wide else c)) + 8
    maps = (5 if wide else 2) * shape.hidden * c
    attention = 4 * shape.heads * shape.head_dim * c + 4 * shape.heads
    forward = 4 * shape.intermediate * c
    token = norms + maps + attention + forward
    return settings.rows * settings.tokens * (token + settings.tokens * c)


def mend(
    shape: ModelShape, settings: MemorySettings, free: int, device_bytes: int
) -> tuple[dict[str, object], Estimate]:
    """The mildest changes that make a run fit, and what it takes with them.

    Tried one after the other, each kept: gradient checkpointing, half the micro-batch again and
    again, LoRA of rank 16, weights in bfloat16. What does not make the run smaller is left out.

    Returns:
        Changes by the names of `dopr train`'s settings, and the estimate with all of them; it may
        still be above `free`.
    """
    changes: dict[str, object] = {}
    now = estimate(shape, settings, device_bytes)
    steps: list[tuple[str, object, dict[str, object]]] = [
        ("gradient_checkpointing", True, {"checkpointing": True})
    ]
    rows = settings.rows
    while rows > 1:
        rows = (rows + 1) // 2
        steps.append(("batch_size", rows, {"batch_size": rows}))
    steps += [("lora.r", 16, {"lora": 16}), ("dtype", "bfloat16", {"dtype": "bfloat16"})]
    for name, value, change in steps:
        if now.peak <= free:
            break
        if name == "lora.r" and settings.lora is not None:
            continue
        changed = replace(settings, **change)  # type: ignore[arg-type]
        smaller = estimate(shape, changed, device_bytes)
        if smaller.peak < now.peak:
            changes[name], settings, now = value, changed, smaller
    return changes, now
