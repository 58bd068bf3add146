"""Robot types that the published checkpoints know: feature keys, sizes, delta masks, cameras (model.md section 9)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from internvla_a1.core.errors import ConfigError

VIEWS = ("observation.images.image0", "observation.images.image1", "observation.images.image2")


@dataclass(frozen=True)
class Embodiment:
    """state_keys and action_keys are in step; dims: values of each, () where the table leaves them open.

    delta_mask: one flag per value, None where none is defined. cameras: feature keys of views 0, 1, 2.
    """

    name: str
    state_keys: tuple[str, ...]
    action_keys: tuple[str, ...]
    dims: tuple[int, ...]
    delta_mask: tuple[bool, ...] | None
    cameras: tuple[str, ...]
    aliases: tuple[str, ...] = field(default=())

    @property
    def size(self) -> int:
        """Number of state values; 0 where the table leaves it open."""
        return sum(self.dims)

    @property
    def image_mapping(self) -> dict[str, str]:
        """Camera feature key -> view slot key."""
        return dict(zip(self.cameras, VIEWS, strict=False))

    def require_delta_mask(self) -> tuple[bool, ...]:
        """The mask; ConfigError where this robot type has none."""
        if self.delta_mask is None:
            raise ConfigError(f"robot type {self.name!r} has no delta mask: its actions are absolute")
        return self.delta_mask


def _keys(template: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(template.format(part) for part in parts)


def _mask(*runs: int) -> tuple[bool, ...]:
    """Alternating runs of true and false, true first: _mask(6, 1) is six true and one false."""
    return tuple(i % 2 == 0 for i, length in enumerate(runs) for _ in range(length))


_GENIE = ("left_joint", "right_joint", "left_gripper", "right_gripper")
_PIPER = ("left_joint", "left_gripper", "right_joint", "right_gripper")
_RGB = ("images.rgb.head", "images.rgb.hand_left", "images.rgb.hand_right")
_R1LITE = ("left_arm", "right_arm", "left_gripper", "right_gripper")
_STATE, _ACTION = ("observation.state",), ("action",)
_DEFAULT_CAMERA = ("observation.image",)

TABLE = (
    Embodiment(
        "aloha", _STATE, _ACTION, (14,), _mask(6, 1, 6, 1),
        _keys("observation.images.{}", ("cam_high", "cam_left_wrist", "cam_right_wrist")),
    ),
    Embodiment("panda", _STATE, _ACTION, (7,), _mask(7), ("observation.images.image", "observation.images.image2")),
    Embodiment(
        "a2d", _keys("observation.states.{}.position", ("joint", "effector")), _keys("actions.{}.position", ("joint", "effector")),
        (14, 2), _mask(14, 2), _keys("observation.images.{}", ("head", "hand_left", "hand_right")),
    ),
    Embodiment(
        "genie1", _keys("states.{}.position", _GENIE), _keys("actions.{}.position", _GENIE),
        (7, 7, 1, 1), _mask(14, 2), _RGB, aliases=("Genie-1",),
    ),
    Embodiment(
        "piper", _keys("states.{}.position", _PIPER), _keys("actions.{}.position", _PIPER), (6, 1, 6, 1), _mask(6, 1, 6, 1), _RGB,
        aliases=("arx_lift2", "ARX Lift-2", "AgileX Split Aloha", "ARX AC One"),
    ),
    Embodiment(
        "franka", _keys("states.{}.position", ("joint", "gripper")), _keys("actions.{}.position", ("joint", "gripper")),
        (7, 1), _mask(7, 1), ("images.rgb.head", "images.rgb.hand"), aliases=("Franka",),
    ),
    Embodiment(
        "r1lite", _keys("observation.state.{}", _R1LITE), _keys("action.{}", _R1LITE), (), None,
        _keys("observation.images.{}_rgb", ("head", "left_wrist", "right_wrist")),
    ),
    Embodiment("split_aloha", _STATE, _ACTION, (), _mask(6, 1, 6, 1), _DEFAULT_CAMERA),
    Embodiment("frankarobotiq", _STATE, _ACTION, (), _mask(7, 1), _DEFAULT_CAMERA),
)  # fmt: skip

_BY_NAME = {name: replace(row, name=name) for row in TABLE for name in (row.name, *row.aliases)}
KNOWN = tuple(_BY_NAME)


def embodiment(robot_type: str) -> Embodiment:
    """The row of a robot type; any unknown type has one state and one action feature, one camera and no delta mask."""
    return _BY_NAME.get(robot_type, Embodiment(robot_type, _STATE, _ACTION, (), None, _DEFAULT_CAMERA))
