"""The collision gate on pinocchio and coal: self-collision, the scene's boxes and the position limits, along a whole chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from internvla_a1.control.collision_protocol import PathCheck
from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.robot import BoxSpec, RobotSpec
from internvla_a1.core.types import FloatArray

STEP_RAD = 0.05  # longest joint step between two checked configurations
MOST_CHECKS = 300  # configurations a chunk, at most: bounds the work; what is beyond them is cut, never let pass unchecked
LEAVING_SLACK_M = 1e-5  # a distance is found to about a micrometre: less than this is not "nearer"


class PinocchioGate:
    """Checks configurations of one robot on convex hulls of its collision shapes.

    Hulls contain the shapes: what they let pass is free. A pair whose hulls overlap in every pose must be disabled in the SRDF.
    margin_m: distance that counts as a hit.
    """

    name = "pinocchio"

    def __init__(self, robot: RobotSpec, urdf: str, srdf: str = "", package_dirs: Sequence[str] = (), margin_m: float = 0.005) -> None:
        """urdf, srdf: text, xacro already expanded. Raises MissingDependencyError, or ConfigError where the URDF lacks a joint."""
        try:
            import coal
            import pinocchio
        except ImportError as error:
            raise MissingDependencyError("pinocchio with coal", "the collision gate", "pip install pin") from error
        self._pin, self._coal = pinocchio, coal
        self._robot = robot
        self._lower, self._upper = robot.array("lower"), robot.array("upper")
        self._model = pinocchio.buildModelFromXML(urdf)
        self._data = self._model.createData()
        shapes = pinocchio.buildGeomFromUrdfString(
            self._model, urdf, pinocchio.GeometryType.COLLISION, package_dirs=list(package_dirs), mesh_loader=coal.MeshLoader()
        )
        self._geometry = _hulls(shapes, coal)
        self._geometry.addAllCollisionPairs()
        if srdf:
            pinocchio.removeCollisionPairsFromXML(self._model, self._geometry, srdf)
        self._fixed_shapes = {i for i, g in enumerate(self._geometry.geometryObjects) if g.parentJoint == 0}
        for box in robot.scene:
            self._add_box(box)
        self._place_joints(urdf)
        self._checker = _Checker(pinocchio, self._model, self._data, self._geometry, margin_m)

    def _add_box(self, box: BoxSpec) -> None:
        place = self._pin.SE3(np.eye(3), np.array(box.center))
        shape = self._pin.GeometryObject(f"scene/{box.name}", 0, 0, place, self._coal.Box(*box.size))
        index = self._geometry.addGeometryObject(shape)
        for other in range(index):
            if other not in self._fixed_shapes and self._geometry.geometryObjects[other].parentJoint != 0:
                self._geometry.addCollisionPair(self._pin.CollisionPair(other, index))

    def _place_joints(self, urdf: str) -> None:
        """Where each commanded joint, and each joint that mimics one, is in pinocchio's vector."""
        from internvla_a1.control.kinematics import UrdfChain

        chain, names = UrdfChain(urdf), self._robot.joint_names
        self._neutral = self._pin.neutral(self._model)
        self._columns: list[tuple[int, int, float, float]] = []
        for i in range(1, self._model.njoints):
            name, at = self._model.names[i], self._model.joints[i].idx_q
            if self._model.joints[i].nq != 1:
                raise ConfigError(f"joint {name} of the URDF has {self._model.joints[i].nq} coordinates; one is supported")
            mimic = chain.joints[name].mimic
            leader, multiplier, offset = mimic if mimic is not None else (name, 1.0, 0.0)
            if leader in names:
                self._columns.append((at, names.index(leader), multiplier, offset))
            else:
                self._neutral[at] = self._robot.passive.get(name, 0.0)
        reached = {column for _, column, _, _ in self._columns}
        missing = [n for i, n in enumerate(names) if i not in reached]
        if missing:
            raise ConfigError.asked("joint of the URDF", missing[0], list(self._model.names)[1:])

    def hit(self, q: FloatArray) -> str:
        """What touches what at joint positions q (joints,); empty if nothing."""
        return self._checker.hit(self._full(q))

    def _full(self, q: FloatArray) -> FloatArray:
        """Pinocchio's vector, with the joints that are not commanded."""
        full = self._neutral.copy()
        for at, column, multiplier, offset in self._columns:
            full[at] = multiplier * q[column] + offset
        return full

    def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
        """How many leading waypoints of path (waypoints, joints) are free, with the straight way to each from the one before."""
        path = np.clip(path, self._lower, self._upper)  # the limiter goes no further either
        if not (leaving and self.hit(start)):
            return walk(self.hit, start, path)
        with self._checker.leaving(self._full(start)) as hit:
            return walk(lambda q: hit(self._full(q)), start, path)


def walk(hit: Callable[[FloatArray], str], start: FloatArray, path: FloatArray) -> PathCheck:
    """Asks hit about start (joints,) -> path (waypoints, joints), straight in between, until it names something."""
    before, checks = start, 0
    for k, waypoint in enumerate(path):
        parts = int(np.abs(waypoint - before).max() / STEP_RAD) + 1
        checks += parts
        if checks > MOST_CHECKS:
            return PathCheck(k, f"nothing, but the way is too long to check at once ({MOST_CHECKS} configurations)")
        for share in np.arange(1, parts + 1) / parts:
            what = hit(before + share * (waypoint - before))
            if what:
                return PathCheck(k, what)
        before = waypoint
    return PathCheck(len(path))


class StateGate:
    """A gate on any checker of single configurations, e.g. MoveIt's planning scene."""

    def __init__(self, name: str, hit: Callable[[FloatArray], str], robot: RobotSpec) -> None:
        self.name, self._hit = name, hit
        self._lower, self._upper = robot.array("lower"), robot.array("upper")

    def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
        return walk(self._hit, start, np.clip(path, self._lower, self._upper))


def _hulls(shapes: Any, coal: Any) -> Any:
    """The same geometry with every mesh replaced by its convex hull: quick to check and never smaller."""
    for shape in shapes.geometryObjects:
        if isinstance(shape.geometry, coal.BVHModelBase):
            shape.geometry.buildConvexHull(True, "Qt")
            shape.geometry = shape.geometry.convex
    return shapes


class _Checker:
    """One configuration against all pairs, stopping at the first hit."""

    def __init__(self, pin: Any, model: Any, data: Any, geometry: Any, margin_m: float) -> None:
        self._pin, self._model, self._data, self._geometry = pin, model, data, geometry
        self._geometry_data, self._margin_m = geometry.createData(), margin_m
        for request in self._geometry_data.collisionRequests:
            request.security_margin = margin_m

    def hit(self, full: FloatArray) -> str:
        pin = self._pin
        if not pin.computeCollisions(self._model, self._data, self._geometry, self._geometry_data, full, True):
            return ""
        for pair, result in zip(self._geometry.collisionPairs, self._geometry_data.collisionResults, strict=True):
            if result.isCollision():
                first, second = (self._geometry.geometryObjects[i].name for i in (pair.first, pair.second))
                return f"{first} with {second}"
        return "a collision"

    @contextmanager
    def leaving(self, start: FloatArray) -> Iterator[Callable[[FloatArray], str]]:
        """Instead of `hit`, for a way from a configuration within the margin: what comes nearer there than it was before, too.

        Whatever has come out of the margin stays out. Where something touches at the start nothing is let pass: which way leads out of
        a hull is not to be seen from inside.
        """
        requests = self._geometry_data.collisionRequests
        self._pin.computeCollisions(self._model, self._data, self._geometry, self._geometry_data, start, False)
        near = [i for i, result in enumerate(self._geometry_data.collisionResults) if result.isCollision()]
        apart = self._distances(near)

        def hit(full: FloatArray) -> str:
            what = self.hit(full)
            if not what:
                for i, distance in zip(near, self._distances(near), strict=True):
                    requests[i].security_margin = max(requests[i].security_margin, min(distance - LEAVING_SLACK_M, self._margin_m))
            return what

        try:
            if min(apart, default=0.0) > LEAVING_SLACK_M:
                for i, distance in zip(near, apart, strict=True):
                    requests[i].security_margin = distance - LEAVING_SLACK_M
            yield hit
        finally:
            for i in near:
                requests[i].security_margin = self._margin_m

    def _distances(self, pairs: list[int]) -> list[float]:
        """In m, in the configuration that was asked about last."""
        return [self._pin.computeDistance(self._geometry, self._geometry_data, i).min_distance for i in pairs]
