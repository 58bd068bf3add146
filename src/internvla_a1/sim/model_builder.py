"""The MuJoCo model, derived from the URDF; here is only what URDF cannot say: contact, actuators, the moving slab, parcels, light."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from internvla_a1.sim.config import CellConfig, Physics
from internvla_a1.sim.urdf import Joint, Link, Solid, Urdf

# Who touches whom, as MuJoCo's contype/conaffinity bits: parcels touch everything, the arm touches all but itself.
FIXED, PARCEL, ARM = 1, 2, 4
# Geom groups: seen by all cameras, by none, by the policy's cameras only, by the film camera only (a texture costs 1 ms a view).
VISUAL_GROUP, COLLISION_GROUP, PLAIN_GROUP, FILM_GROUP = 2, 3, 4, 5
FLIP_X = np.array([0.0, 1.0, 0.0, 0.0])  # optical frame (z forward) to MuJoCo camera (z backward): half a turn about x


def build_spec(urdf: Urdf, config: CellConfig) -> mujoco.MjSpec:
    """The whole cell as an editable MuJoCo spec."""
    spec = mujoco.MjSpec()
    spec.modelname = "demo_cell"
    spec.compiler.degree = False
    _options(spec, config.physics)
    _surroundings(spec, config)
    _add_link(spec, spec.worldbody, urdf.links[urdf.root], urdf, config)
    _mirror_fingers(spec, urdf)
    _actuators(spec, urdf, config.physics)
    _parcel_pool(spec, config)
    return spec


def _options(spec: mujoco.MjSpec, physics: Physics) -> None:
    option = spec.option
    option.timestep = physics.timestep_s
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0  # stiff friction directions: a held parcel does not creep out of the fingers


def _surroundings(spec: mujoco.MjSpec, config: CellConfig) -> None:
    look = config.look
    head = spec.visual.headlight
    head.ambient = np.full(3, look.ambient)
    head.diffuse = np.full(3, look.headlight)
    head.specular = np.zeros(3)
    spec.visual.map.znear = 0.005
    spec.visual.map.zfar = 20.0
    spec.visual.map.shadowclip = 1.0
    spec.stat.extent, spec.stat.center = 1.5, [0.35, 0.0, 0.0]  # m, of what is looked at: the parked parcels do not count
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1920, 1080
    spec.visual.rgba.haze = [*look.background, 1.0]
    spec.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=look.background, rgb2=[0.6 * c for c in look.background], width=64, height=384,
    )
    spec.add_texture(
        name="floor", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=look.floor, rgb2=[0.94 * c for c in look.floor], width=256, height=256,
    )
    textures = [""] * int(mujoco.mjtTextureRole.mjNTEXROLE)
    textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = "floor"
    spec.add_material(name="floor", textures=textures, texrepeat=[4.0, 4.0], texuniform=True, reflectance=0.06)
    floor = {"type": mujoco.mjtGeom.mjGEOM_PLANE, "pos": [0, 0, look.floor_z], "size": [6, 6, 0.1], "conaffinity": 0}
    spec.worldbody.add_geom(name="floor", rgba=[*look.floor, 1.0], contype=FIXED, group=PLAIN_GROUP, **floor)
    spec.worldbody.add_geom(name="tiles", material="floor", contype=0, group=FILM_GROUP, **floor)
    for i, lamp in enumerate(look.lamps):
        toward = np.array([0.4, 0.0, 0.0]) - np.array(lamp.position)
        spec.worldbody.add_light(
            name=f"lamp_{i}", pos=list(lamp.position), dir=list(toward / np.linalg.norm(toward)), castshadow=lamp.shadow,
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, diffuse=[lamp.strength] * 3, specular=[0.15 * lamp.strength] * 3,
        )


def _add_link(spec: mujoco.MjSpec, body: Any, link: Link, urdf: Urdf, config: CellConfig) -> None:
    arm = _moves(link.name, urdf)
    body.gravcomp = 1.0 if arm else 0.0
    if link.inertia is not None and body.name != "world":
        full = link.inertia.matrix
        body.mass, body.ipos = link.inertia.mass, link.inertia.com
        body.fullinertia = [full[0, 0], full[1, 1], full[2, 2], full[0, 1], full[0, 2], full[1, 2]]
        body.explicitinertial = True
    for i, solid in enumerate(link.visuals):
        geom = _geom(body, solid, f"{link.name}/visual_{i}", VISUAL_GROUP)
        geom.contype = geom.conaffinity = 0
    for i, solid in enumerate(link.collisions):
        geom = _geom(body, solid, f"{link.name}/collision_{i}", COLLISION_GROUP)
        geom.contype, geom.conaffinity = (ARM, FIXED | PARCEL) if arm else (FIXED, 0)
        _surface(geom, link.name, config.physics)
    for joint in urdf.children(link.name):
        child = body.add_body(name=joint.child, pos=joint.pose.xyz, quat=joint.pose.quat)
        _add_joint(child, joint)
        if joint.child == "belt":
            _slab(child, config)
        _add_link(spec, child, urdf.links[joint.child], urdf, config)
    for sensor in urdf.sensors:
        if link.name == f"{sensor.name}_optical_frame":
            vertical = 2 * np.arctan(np.tan(sensor.horizontal_fov / 2) * sensor.height / sensor.width)
            body.add_camera(name=sensor.name, quat=FLIP_X, fovy=float(np.degrees(vertical)))


def _moves(link: str, urdf: Urdf) -> bool:
    """Whether a moving joint lies between this link and the root."""
    while link != urdf.root:
        joint = next(j for j in urdf.joints if j.child == link)
        if joint.kind != "fixed":
            return True
        link = joint.parent
    return False


def _geom(body: Any, solid: Solid, name: str, group: int) -> Any:
    if solid.kind == "box":
        kind, size = mujoco.mjtGeom.mjGEOM_BOX, [s / 2 for s in solid.size]
    else:
        kind, size = mujoco.mjtGeom.mjGEOM_CYLINDER, [solid.size[0], solid.size[1] / 2, 0.0]
    return body.add_geom(
        name=name, type=kind, size=size, pos=solid.pose.xyz, quat=solid.pose.quat, rgba=solid.rgba, group=group, mass=0.0
    )


def _surface(geom: Any, link: str, physics: Physics) -> None:
    if link.startswith("finger"):
        geom.friction, geom.condim, geom.solref = [physics.finger_friction, 0.05, 0.001], 4, [0.008, 1.0]
    elif link.startswith("bin"):
        geom.friction, geom.priority = [physics.bin_friction, 0.01, 0.001], 1  # smooth, whatever lies on it
    else:
        geom.friction = [physics.friction, 0.01, 0.001]


def _add_joint(body: Any, joint: Joint) -> None:
    if joint.kind == "fixed":
        return
    slide = joint.kind == "prismatic"
    body.add_joint(
        name=joint.name, axis=joint.axis, range=[joint.lower, joint.upper], limited=True, damping=joint.damping,
        type=mujoco.mjtJoint.mjJNT_SLIDE if slide else mujoco.mjtJoint.mjJNT_HINGE, armature=0.02 if slide else 0.1,
    )


def _slab(body: Any, config: CellConfig) -> None:
    """The belt is one long slab on a slide joint; seams show its motion. See belt.py for how it runs for ever."""
    belt = config.belt
    body.add_joint(name="belt", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 1, 0])
    body.mass, body.explicitinertial, body.inertia = 100.0, True, [10.0, 10.0, 10.0]
    count = round(2.4 / belt.seam_period_m)
    for k in range(count):
        y = (k - (count - 1) / 2) * belt.seam_period_m
        body.add_geom(
            name=f"belt/seam_{k}", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.128, 0.004, 0.0004], pos=[0, y, 0.0], mass=0.0,
            rgba=[*config.look.seam, 1.0], contype=0, conaffinity=0, group=VISUAL_GROUP,
        )


def _mirror_fingers(spec: mujoco.MjSpec, urdf: Urdf) -> None:
    for joint in urdf.joints:
        if joint.mimic:
            spec.add_equality(
                type=mujoco.mjtEq.mjEQ_JOINT, name1=joint.name, name2=joint.mimic, objtype=mujoco.mjtObj.mjOBJ_JOINT,
                data=[0.0, 1.0] + [0.0] * (mujoco.mjNEQDATA - 2), solref=[0.004, 1.0],
            )


def _actuators(spec: mujoco.MjSpec, urdf: Urdf, physics: Physics) -> None:
    for joint in urdf.joints:
        if joint.kind == "fixed" or joint.mimic:
            continue
        finger = joint.kind == "prismatic"
        kp, kv = (physics.gripper_kp, physics.gripper_kv) if finger else (physics.servo_kp, physics.servo_kv)
        actuator = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=kp, kv=kv)
        # the gripper's effort limit is per finger, one actuator drives both through the mimic constraint
        effort = 2 * joint.effort if finger else joint.effort
        actuator.forcelimited, actuator.forcerange = True, [-effort, effort]
    belt = spec.add_actuator(name="belt", target="belt", trntype=mujoco.mjtTrn.mjTRN_JOINT)
    belt.set_to_velocity(kv=3000.0)


def _parcel_pool(spec: mujoco.MjSpec, config: CellConfig) -> None:
    for i in range(config.parcels.pool):
        body = spec.worldbody.add_body(name=f"parcel_{i}", pos=[0.0, 0.12 * i, -2.0], gravcomp=1.0)
        body.add_freejoint(name=f"parcel_{i}")
        body.add_geom(
            name=f"parcel_{i}", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02, 0.02, 0.02], mass=config.parcels.mass_kg,
            friction=[config.parcels.friction, 0.02, 0.001], condim=4, solref=[0.008, 1.0], contype=0, conaffinity=0, group=VISUAL_GROUP,
        )
